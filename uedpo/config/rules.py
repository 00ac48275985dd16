"""Rules between keys of a configuration; `uedpo.config.validate` checks each key by itself first."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from uedpo.loss import FROM_ROWS, LIVE_REFERENCE, ON_REQUEST, SMOOTHED
from uedpo.model.quantize import why_not
from uedpo.results.metrics import known_mode

# loss -> the weights it is for; and the losses that refuse weights
WEIGHTED = {"ue_dpo": "uncertainty", "rlhf_v": "segments", "opa_dpo": "segments"}
UNWEIGHTED = ("dpo", "tpo", "v_dpo", "mdpo", "napo", "da_dpo")


def cross_rules(
    values: Mapping[str, Any], parameters_of: Callable[[str], Mapping[str, Any]]
) -> Iterator[str]:
    """One line for each rule that `values`, plain and resolved, break.

    Args:
        parameters_of: dotted name of a target -> its parameters.
    """

    def at(*keys: str) -> Any:
        node: Any = values
        for key in keys:
            node = node.get(key) if isinstance(node, Mapping) else None
        return node

    yield from _method(at, parameters_of)
    yield from _options(at)
    yield from _steps(at)
    yield from _model(at)
    yield from rank_rules(at)
    attention = at("model", "attn_implementation")
    if at("scoring") == "prefix_shared" and attention in ("eager", "flash_attention_2"):
        yield (
            f"model.attn_implementation={attention!r}: scoring=prefix_shared brings its own attention; "
            "use sdpa, or scoring=plain"
        )
    if at("feature_cache") is not None and at("scoring") == "plain":
        yield "feature_cache: scoring=plain runs the tower inside the model; set feature_cache=null"
    if at("metric") is not None and at("mode") is None and known_mode(str(at("metric"))) is None:
        yield f"metric={at('metric')}: nobody knows which is better; add mode=min or mode=max"
    yield from _paths(at)
    factors = [
        at("data", "batch_size"),
        *(at("trainer", n) for n in ("accumulate_grad_batches", "devices", "num_nodes")),
    ]
    numbers = [1 if f is None else f for f in factors]
    want = at("global_batch")
    if isinstance(want, int) and all(isinstance(n, int) for n in numbers):
        product = functools.reduce(lambda a, b: a * b, numbers)
        if product != want:
            yield (
                f"global_batch={want}: data.batch_size x trainer.accumulate_grad_batches x devices x nodes "
                f"is {' x '.join(map(str, numbers))} = {product}; change one of them"
            )


def _paths(at: Any) -> Iterator[str]:
    """Whether names of files and folders are of this machine, and of the right kind."""
    name = at("name")
    if isinstance(name, str) and name and (Path(name).is_absolute() or ".." in Path(name).parts):
        yield f"name={name}: is a folder below outputs/, without ..; for another place set hydra.run.dir"
    resume = at("resume")
    if isinstance(resume, str) and resume not in ("", "auto", "required"):
        place = Path(resume)
        run = place.parent if place.name == "checkpoints" else place
        if place.is_dir():
            yield f"resume={resume}: is a folder; to continue the run in it: hydra.run.dir={run} resume=auto"
        elif not place.is_file():
            yield f"resume={resume!r}: no such file; give the path of a checkpoint, auto, or required"
    for key in ("feature_cache", "reference_cache"):
        folder = at(key)
        if isinstance(folder, str) and (Path(folder) / "config.yaml").is_file():
            yield f"{key}={folder}: is the directory of a run; name a folder of its own"


def _steps(at: Any) -> Iterator[str]:
    """Whether validation falls between optimiser steps."""
    every, accumulate = (at("trainer", n) for n in ("val_every_n_batches", "accumulate_grad_batches"))
    if all(isinstance(n, int) and n > 0 for n in (every, accumulate)) and every % accumulate:
        yield (
            f"trainer.val_every_n_batches={every}: must be a multiple of accumulate_grad_batches="
            f"{accumulate}, or checkpoints fall between optimiser steps"
        )


def _model(at: Any) -> Iterator[str]:
    """Whether the ways to hold and train a model fit together."""
    if at("model", "train_projector") and at("scoring") == "prefix_shared":
        yield (
            "model.train_projector=true: scoring=prefix_shared computes image features once, without "
            "gradient; add scoring=plain, or set it to false"
        )
    adapted = at("model", "lora") is not None
    half, precision = at("model", "dtype") == "bfloat16", at("trainer", "precision")
    if half and precision == "32-true" and adapted and at("model", "train_projector"):
        yield (
            "model.train_projector=true: trains weights in fp32 beside frozen ones in bfloat16, which only "
            "trainer.precision=bf16-mixed computes with; set it, or model.dtype=float32"
        )
    for key, fits, remedy in (
        ("quantize", adapted, "trains an adapter: set model.lora, or model.quantize=null"),
        ("reference_quantize", not adapted, "under LoRA the reference is the policy itself: set it to null"),
    ):
        bits = at("model", key)
        if bits not in ("4bit", "8bit"):
            continue
        if not fits:
            yield f"model.{key}={bits}: {remedy}"
        reason = why_not(at("trainer", "accelerator"))
        if reason:
            yield f"model.{key}={bits}: {reason}"


def _options(at: Any) -> Iterator[str]:
    """Whether the options of one loss, or of one corruption, fit together."""
    smoothing, form = at("loss", "label_smoothing"), at("loss", "form")
    if smoothing and form is not None and form not in SMOOTHED:
        yield f"loss.label_smoothing={smoothing}: has no effect with loss.form={form}; set it to 0"
    least, most = at("corruption", "least"), at("corruption", "most")
    if isinstance(least, int | float) and isinstance(most, int | float) and least > most:
        yield f"corruption.least={least}: must not be above corruption.most={most}"


def _method(at: Any, parameters_of: Callable[[str], Mapping[str, Any]]) -> Iterator[str]:
    """Whether loss, weights, corruption and data of a method fit together."""
    weighed = at("weights", "_target_") is not None
    if at("loss", "_target_") is None:  # said elsewhere
        return
    target = str(at("loss", "_target_"))
    name = target.rsplit(".", 1)[-1].removesuffix("_loss")
    if name in WEIGHTED and not weighed:
        yield f"loss={name} needs token weights: add weights={WEIGHTED[name]}, or use loss=dpo"
    if name in UNWEIGHTED and weighed:
        yield f"loss={name} takes no token weights: add weights=uniform, or use loss=ue_dpo"
    if (name == "napo") != bool(at("data", "negatives")):
        yield "loss=napo and data.negatives=true go together: it is the loss of four responses a pair"
    try:
        asked = [p for p in parameters_of(target) if p in ON_REQUEST and p not in FROM_ROWS]
    except Exception:  # reported already
        asked = []
    if at("reference_cache") is not None and any(p in LIVE_REFERENCE for p in asked):
        yield (
            f"reference_cache: loss={name} needs the reference's scores of corrupted images, which are new "
            "in every step; set reference_cache=null"
        )
    probes = str(at("weights", "_target_")).endswith("UncertaintyProbe")
    dropout = at("model", "lora", "dropout")
    if (probes or asked) and dropout:
        yield (
            f"model.lora.dropout={dropout}: must be 0 with weights=uncertainty or loss={name}, "
            "or clear and corrupted image are scored under different masks"
        )
    saving = [
        name
        for name, off in (("every_n_steps", 1), ("reuse", False))
        if at("weights", name) not in (off, None)
    ]
    if probes and saving and at("weights", "select") != "sensitivity":
        signal = at("weights", "signal")
        if signal in ("entropy", "surprisal", "margin"):
            yield (
                f"weights.{saving[0]}={at('weights', saving[0])}: saves probes, and signal={signal} with "
                f"select={at('weights', 'select')} makes none; leave it at its default"
            )


def rank_rules(at: Callable[..., Any]) -> Iterator[str]:
    """One line for each thing that several ranks cannot do.

    Args:
        at: keys -> value of a configuration.
    """
    devices, nodes = (at("trainer", name) or 1 for name in ("devices", "num_nodes"))
    if not (isinstance(devices, int) and isinstance(nodes, int)):
        return
    if at("trainer", "strategy") == "fsdp":
        yield from _fsdp(at, devices * nodes)
    if devices * nodes == 1:
        return
    if at("trainer", "strategy") == "auto":
        yield f"trainer.devices={devices} x {nodes} nodes: several ranks need trainer.strategy=ddp or fsdp"
    # statistics of the probe that would be over the pairs of each rank by itself
    for name, single, what in (
        ("scope", ("response", None), "it would be taken over the pairs of each rank by itself"),
        ("control", ("none", "shuffled", None), "it takes means over the pairs of each rank by itself"),
        ("every_n_steps", (1, None), "each rank would go on from its own means, a resumed one from rank 0's"),
        ("reuse", (False, None), "each rank would remember its own pairs, a resumed one those of rank 0"),
    ):
        value = at("weights", name)
        if value not in single:
            yield f"weights.{name}={value}: with several ranks {what}; use one, or {name}={single[0]}"


def _fsdp(at: Callable[..., Any], ranks: int) -> Iterator[str]:
    for refused, what in (
        (ranks == 1, "needs several devices; use trainer.strategy=auto"),
        (at("model", "lora") is None, "shards decoder layers only, and model.lora=null trains the head too"),
        (at("model", "train_projector"), "shards decoder layers only; set model.train_projector=false"),
        (at("callbacks", "evaluation"), "rank 0 cannot evaluate alone while training; use callbacks=default"),
        (at("reference_cache"), "has not been tried with a stored reference; set reference_cache=null"),
        (at("model", "quantize"), "has not been tried with quantised weights; set model.quantize=null"),
    ):
        if refused:
            yield f"trainer.strategy=fsdp: {what}"
