"""A row against the model's own chat template: the same text, and where its answer begins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from uedpo.data.collate import PairCollator
from uedpo.data.prompts import pair_turns
from uedpo.errors import InputError
from uedpo.types import PreferencePair

SHOWN = 5  # tokens on each side of a boundary


def check_rows(collate: PairCollator, pairs: Sequence[PreferencePair]) -> None:
    """Whether the ids of rows are what the processor makes of the text that the template writes.

    Raises:
        InputError: with both texts, where they part.
    """
    for pair in pairs:
        batch = collate([pair])
        sides = ((pair.chosen, pair.images), (pair.rejected, pair.rejected_images))
        for row, (answer, images) in enumerate(sides):
            last = batch.prefix_lengths[row] + batch.response_lengths[row]
            trained = batch.inputs["input_ids"][row, :last].tolist()
            written = _written(collate, pair, answer.strip(), images)[:last]
            # the end token that a template does not write is the collator's
            parts = next(
                (i for i, ids in enumerate(zip(trained, written, strict=False)) if len({*ids}) > 1), None
            )
            if parts is None and len(trained) - len(written) > 1:
                parts = len(written)
            if parts is not None:
                near = slice(max(0, parts - SHOWN), parts + SHOWN)
                decode = collate.processor.tokenizer.decode
                raise InputError(
                    f"row {pair.id}: is trained as {decode(trained[near])!r} where the chat template writes "
                    f"{decode(written[near])!r}; use the processor and chat template that belong to the model"
                )


def _written(collate: PairCollator, pair: PreferencePair, answer: str, images: Sequence[Any]) -> list[int]:
    content = [{"type": "text", "text": answer}]
    turns = [*pair_turns(pair), {"role": "assistant", "content": content}]
    text = str(collate.processor.apply_chat_template(turns))
    if not collate.frame.ends:
        text = text[: text.rindex(answer) + len(answer)]
    given = {"images": list(images)} if images else {}
    made = collate.processor(**given, text=[text], return_tensors="pt", **collate.frame.options(text))
    return list(made["input_ids"][0].tolist())


def boundary_lines(collate: PairCollator, pair: PreferencePair) -> list[str]:
    """The tokens around the place where each response begins, and its last ones."""
    batch, name = collate([pair]), collate.processor.tokenizer.convert_ids_to_tokens
    lines = []
    for row, side in enumerate(("chosen", "rejected")):
        first, length = batch.prefix_lengths[row], batch.response_lengths[row]
        ids = batch.inputs["input_ids"][row, : first + length].tolist()
        before, after = name(ids[max(0, first - SHOWN) : first]), name(ids[first:])
        shown = after if len(after) <= 2 * SHOWN else [*after[:SHOWN], "...", *after[-2:]]
        lines.append(f"  {side:<9}... {_row(before)} || {_row(shown)}")
    return [f"row {pair.id}: tokens before || in the loss", *lines]


def _row(pieces: Sequence[str]) -> str:
    return " ".join(repr(str(piece))[1:-1] for piece in pieces)
