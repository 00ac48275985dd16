"""Answers of a model to a benchmark: `python -m uedpo.evaluation.generate benchmark=NAME model=... ...`.

Writes answers.jsonl: a header of settings, then one answer a line. Run the same command again after a
crash and it goes on. One process a GPU with shard=0/4 ... shard=3/4, then `uedpo.evaluation.merge`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from uedpo.errors import InputError, local_path
from uedpo.evaluation.append_file import ANSWERS, AppendFile, digest
from uedpo.evaluation.options import command
from uedpo.evaluation.protocols import Benchmark, Decoding, Protocol, decoding, on_square
from uedpo.evaluation.questions import DESCRIBE, Question, images_digest, load, with_suffix
from uedpo.runtime.progress import late_bar
from uedpo.runtime.say import say
from uedpo.runtime.versions import versions_of
from uedpo.types import PositiveInt

if TYPE_CHECKING:
    from uedpo.model.hf import HFModel


def answer_benchmark(
    benchmark: Benchmark,
    model: str,
    assets: str,
    output: str,
    images: str | None = None,
    adapter: str | None = None,
    protocol: Protocol = "greedy",
    batch_size: PositiveInt = 8,
    shard: str = "0/1",
    dtype: Literal["float32", "bfloat16"] = "float32",
    revision: str | None = None,
    limit: PositiveInt | None = None,
    prompt: str = DESCRIBE,
    suffix: str | None = None,
    max_new_tokens: PositiveInt | None = None,
) -> int:
    """Answer all questions of a shard that `output` has no answer to; the exit code.

    Args:
        model: hub id, local folder, or "uedpo:micro_llava".
        assets: folder of the benchmark's own files; for pope its label file.
        adapter: folder of a PEFT adapter of `model`.
        shard: "i/n": the questions i, i + n, ..., written to NAME.i-of-n.jsonl where n > 1.
        prompt: what chair asks.
        suffix, max_new_tokens: in the place of the protocol's.

    Raises:
        InputError: before any weight loads: files, settings other than those of `output`.
    """
    from uedpo.model.hf import HFModel  # what follows needs torch; the command line and its errors do not

    index, of = _shard(shard)
    decode = _replaced(decoding(protocol, benchmark), suffix=suffix, max_new_tokens=max_new_tokens)
    folder = None if images is None else local_path(images)
    questions = with_suffix(load(benchmark, local_path(assets), folder, prompt, limit), decode.suffix)
    source, lora = HFModel(model, revision, dtype), None if adapter is None else local_path(adapter)
    header = {
        ANSWERS: 1,
        "benchmark": benchmark,
        "protocol": protocol,
        "model": model,
        "revision": revision,
        "model_sha256": weights_digest(Path(source.location)),
        "adapter_sha256": None if lora is None else _adapter_digest(lora),
        "dtype": dtype,
        "num": len(questions),
        "prompts_sha256": digest([[q.id, q.prompt] for q in questions]),
        "images_sha256": images_digest(questions),
        "decoding": decode._asdict(),
        "versions": versions_of("uedpo", "torch", "transformers", "peft"),
        "shard": f"{index}/{of}",
    }
    path, mine = shard_path(local_path(output), index, of), questions[index::of]
    with AppendFile(path, header) as file:
        done = answered(file.path, file.rows, mine)
        if len(done) < len(mine):
            _answer_rest(file, mine, done, source, lora, decode, batch_size)
    say(f"{len(mine)}/{len(mine)} answers in {path}")
    return 0


def _replaced(decode: Decoding, **given: Any) -> Decoding:
    """`decode` with what is given, None being nothing."""
    return decode._replace(**{name: value for name, value in given.items() if value is not None})


def _answer_rest(
    file: AppendFile,
    questions: Sequence[Question],
    done: set[int],
    source: HFModel,
    adapter: Path | None,
    decode: Decoding,
    batch_size: int,
) -> None:
    """Append what is missing, in order.

    A batch that was cut is generated whole again: what shares a batch moves the last bits of a logit,
    and an answer must not depend on where a run was killed.
    """
    from uedpo.evaluation.decode import generate

    model, processor = load_model(source, adapter)
    with late_bar("answers", len(questions) - len(done)) as advance:
        for start in range(0, len(questions), batch_size):
            batch = questions[start : start + batch_size]
            if all(q.id in done for q in batch):
                continue
            images = [q.picture() for q in batch]
            if decode.image_aspect == "pad":
                images = [on_square(image, processor) for image in images]
            answers = generate(
                model,
                processor,
                images,
                [q.prompt for q in batch],
                max_new_tokens=decode.max_new_tokens,
                batch_size=batch_size,
                temperature=decode.temperature,
                num_beams=decode.num_beams,
            )
            for question, answer in zip(batch, answers, strict=True):
                if question.id not in done:
                    extra = {} if question.image_id is None else {"image_id": question.image_id}
                    file.append({"id": question.id, "answer": answer, **extra})
                    advance()


def load_model(source: HFModel, adapter: Path | None) -> tuple[Any, Any]:
    """(model in eval mode on the GPU where there is one, processor).

    Raises:
        InputError: what transformers or peft cannot load, in one line.
    """
    import torch
    from transformers.utils import logging as transformers_logging

    from uedpo.model.adapter import attach_adapter

    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        model, processor = source.base(), source.processor()
        if adapter is not None:
            model = attach_adapter(model, adapter)
    except (OSError, ValueError) as error:
        name = source.path if adapter is None else f"{source.path} with adapter={adapter}"
        raise InputError(f"model={name}: cannot be loaded ({str(error).splitlines()[0]})") from None
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval(), processor


def answered(
    path: Path, rows: Sequence[tuple[int, dict[str, Any]]], questions: Sequence[Question]
) -> set[int]:
    """Ids of the rows of an answer file.

    Raises:
        InputError: naming file, line and field of a row that answers none of `questions`, or one twice.
    """
    asked = {q.id for q in questions}
    done: set[int] = set()
    for number, row in rows:
        if type(row.get("id")) is not int or row["id"] not in asked:
            raise InputError(f"{path}:{number}: id={row.get('id')!r} is no question of this shard")
        if row["id"] in done:
            raise InputError(f"{path}:{number}: id={row['id']} has an answer above; remove one of the lines")
        if not isinstance(row.get("answer"), str):
            raise InputError(f"{path}:{number}: answer must be a text; remove the line")
        done.add(row["id"])
    return done


def weights_digest(folder: Path) -> str | None:
    """sha256 over names and bytes of a folder's configuration and safetensors files; None for a hub id."""
    if not folder.is_dir():
        return None
    total = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.suffix in (".json", ".jinja", ".safetensors")):
        with path.open("rb") as file:
            total.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()


def _adapter_digest(folder: Path) -> str | None:
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (folder / name).is_file():
            raise InputError(f"adapter={folder}: has no {name}; give the folder `adapter` of a run")
    return weights_digest(folder)


def shard_path(output: Path, index: int, of: int) -> Path:
    """answers.jsonl -> answers.0-of-4.jsonl, or `output` itself where there is one shard."""
    return output if of == 1 else output.with_name(f"{output.stem}.{index}-of-{of}{output.suffix}")


def _shard(text: str) -> tuple[int, int]:
    index, slash, of = text.partition("/")
    if not (slash and index.isdecimal() and of.isdecimal() and int(index) < int(of)):
        raise InputError(f"shard={text!r}: must be i/n with 0 <= i < n, such as 0/4")
    return int(index), int(of)


if __name__ == "__main__":
    command(answer_benchmark)
