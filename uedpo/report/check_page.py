"""check.html: the first rows as the model gets them, on one self-contained page.

Texts and names are data: Jinja escapes everything, and the page's policy forbids scripts and requests.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from uedpo.data.collate import PairCollator
from uedpo.data.rejects import Ledger
from uedpo.errors import InputError
from uedpo.report.templates import TEMPLATES
from uedpo.types import PairBatch, PreferencePair

SIDE = 320  # pixels of a picture on the page, at most
REJECTED = 50  # rejected rows on the page


def write_check_page(
    folder: Path,
    cfg: DictConfig,
    processor: Any,
    pairs: Sequence[PreferencePair],
    collate: PairCollator,
    tables: Mapping[str, Sequence[str]],
    ledgers: Sequence[Ledger],
    problems: Sequence[str],
) -> Path:
    """Write `folder`/check.html.

    Args:
        pairs: to show, with their images.
        tables: lines about each part of the data.
        ledgers: accounts of the rows of files.
        problems: rows that cannot be collated, a line each.
    """
    rejected = [row for ledger in ledgers for row in ledger.rejected]
    page = TEMPLATES.get_template("check.html.j2").render(
        name=cfg.name,
        model=cfg.model.path,
        rows=[_row(pair, collate, processor) for pair in pairs],
        tables=list(tables.values()),
        summaries=[ledger.summary() for ledger in ledgers],
        rejected=rejected[:REJECTED],
        more=max(0, len(rejected) - REJECTED),
        problems=list(problems[:REJECTED]),
    )
    path = folder / "check.html"
    path.write_text(page, encoding="utf-8")
    return path


def _row(pair: PreferencePair, collate: PairCollator, processor: Any) -> dict[str, Any]:
    """What the page says of a pair."""
    row: dict[str, Any] = {
        "id": pair.id,
        "images": [_picture(image) for image in pair.images],
        "rejected_images": [] if pair.rejected_image is None else [_picture(i) for i in pair.rejected_images],
        "weight": pair.weight,
        "sides": [],
        "problem": "",
    }
    try:
        # nothing cut, to show what is
        whole = PairCollator(processor, 10**6)([pair])
        kept = collate([pair]).mask.sum(1).tolist()
    except InputError as error:
        return row | {"problem": str(error)}
    for side, title in enumerate(("chosen", "rejected")):
        row["sides"].append({"title": title, **_sequence(whole, side, kept[side], processor.tokenizer)})
    return row


def _sequence(batch: PairBatch, row: int, kept: int, tokenizer: Any) -> dict[str, Any]:
    """Tokens of prompt and response, runs of one token as one, and their numbers."""
    ids = batch.inputs["input_ids"][row]
    start = int(batch.positions[row, 0]) + 1
    context = []
    for token, run in groupby(ids[:start].tolist()):
        number = len(list(run))
        text = tokenizer.decode([token])
        context.append({"text": text, "times": number} if number > 3 else {"text": text * number, "times": 1})
    tokens = batch.tokens[row][batch.mask[row]]
    weights = None if batch.token_weights is None else batch.token_weights[row].tolist()
    response = [
        {"text": text, "weight": None if weights is None else weights[i], "cut": i >= kept}
        for i, text in enumerate(_pieces(tokens, tokenizer))
    ]
    return {
        "context": context,
        "response": response,
        "numbers": f"{start} tokens before, {kept} in the loss, {len(tokens) - kept} cut",
    }


def _pieces(tokens: torch.Tensor, tokenizer: Any) -> list[str]:
    """Text of each token, spaces as they stand in the whole."""
    ends = [tokenizer.decode(tokens[: i + 1]) for i in range(len(tokens))]
    return [end[len(start) :] for start, end in zip(["", *ends], ends, strict=False)]


def _picture(image: Any) -> str:
    """A small copy as a PNG data URL."""
    small = image.copy()
    small.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    small.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
