"""What a run leaves for its report at the end: traces.json, classes.json and environment.json."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from uedpo.data.prompts import pair_turns
from uedpo.evaluation.decode import generate
from uedpo.evaluation.generate import weights_digest
from uedpo.microworld.data import MicroWorldPairs
from uedpo.microworld.tokens import scene_of, token_truth
from uedpo.microworld.truth import judge, read
from uedpo.model.chat import AnswerFrame
from uedpo.report.classes import class_table
from uedpo.report.trace import Truth, trace_pairs
from uedpo.results.runs import ENVIRONMENT
from uedpo.runtime.progress import late_bar
from uedpo.runtime.versions import versions
from uedpo.types import PreferencePair

# validation pairs that the table by class of token is made of
CLASS_PAIRS = 96
MAX_NEW_TOKENS = 128


def records(
    module: Any,
    processor: Any,
    data: Any,
    weigher: Any,
    *,
    report_pairs: int,
    setting: str,
    seconds: float,
    bars: bool,
) -> dict[str, Any]:
    """File name -> what it is to hold, in the order of writing; the policy is left in the mode it was in.

    Args:
        data: the data module; pairs are the first of `data.val`.
        report_pairs: how many of them the report shows.
        setting: key of the trial.
        seconds: the run has taken so far.
        bars: whether a terminal shows a bar.
    """
    truth = truth_of(data.val, processor)
    num = min(len(data.val), max(report_pairs, CLASS_PAIRS if truth else 0))
    traces: list[dict[str, Any]] = []
    with _eval(module), late_bar("tracing pairs for the report", num, bars) as advance:
        for start in range(0, num, data.batch_size):
            pairs = [data.val[i] for i in range(start, min(start + data.batch_size, num))]
            scores = {"before": module.score_reference, "after": module.score}
            made = trace_pairs(scores, processor, pairs, weigher, module.device, truth)
            shown = slice(0, max(0, report_pairs - start))
            _add_captions(made[shown], pairs[shown], module, processor, truth is not None)
            traces += made
            advance(len(pairs))
    files: dict[str, Any] = {"traces.json": traces[:report_pairs]}
    if truth is not None:
        files["classes.json"] = class_table(traces)
    return files | {ENVIRONMENT: environment(module, data, setting, seconds)}


def truth_of(pairs: Any, processor: Any) -> Truth | None:
    """The exact truth of each token, which only the micro-world has."""
    if not isinstance(pairs, MicroWorldPairs):
        return None
    frame = AnswerFrame(processor)
    return lambda pair, text: token_truth(text, scene_of(pair), frame.spans(pair_turns(pair), text))


def environment(module: Any, data: Any, setting: str, seconds: float) -> dict[str, Any]:
    """Versions, machine, time, and hashes of data, model and setting; no names of hosts or users."""
    device = module.device
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "versions": versions(),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "device": gpu or f"{device.type}, {torch.get_num_threads()} threads of {os.cpu_count()} cores",
        "devices": module.trainer.world_size,
        "attention": module.attention(module.trainer),
        "seconds": round(seconds, 1),
        "finished": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "data_sha256": data.fingerprint(),
        "rows": {"train": len(data.train), "val": len(data.val)},
        "model_sha256": weights_digest(Path(module.source.location)),
        "setting": setting,
    }


@contextmanager
def _eval(module: Any) -> Iterator[None]:
    training = module.policy.training
    module.policy.eval()
    try:
        yield
    finally:
        module.policy.train(training)


def _add_captions(
    traces: Sequence[dict[str, Any]],
    pairs: Sequence[PreferencePair],
    module: Any,
    processor: Any,
    judged: bool,
) -> None:
    """Greedy answers of base model and policy to each pair of one image and one turn, as trace["says"]."""
    with_image = [i for i, pair in enumerate(pairs) if len(pair.images) == 1 and not pair.history]
    if not with_image:
        return
    images, prompts = [pairs[i].images[0] for i in with_image], [pairs[i].prompt for i in with_image]
    options = {"max_new_tokens": MAX_NEW_TOKENS, "batch_size": len(images)}
    with module.reference_model() as reference:
        before = list(generate(reference, processor, images, prompts, **options))
    after = list(generate(module.policy, processor, images, prompts, **options))
    for i, *texts in zip(with_image, before, after, strict=True):
        says = [said(text, pairs[i] if judged else None) for text in texts]
        traces[i]["says"] = dict(zip(("before", "after"), says, strict=True))


def said(text: str, pair: PreferencePair | None) -> dict[str, Any]:
    """An answer, and the words [start, end, kind] of it that are not true of a micro-world pair's scene."""
    if pair is None:
        return {"text": text, "wrong": None}
    words = judge(read(text), scene_of(pair)).words
    return {"text": text, "wrong": [[w.start, w.end, w.kind] for w in words if w.right is False]}
