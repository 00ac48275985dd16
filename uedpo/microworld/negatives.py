"""NaPO's two further negatives of each shipped pair: `python -m uedpo.microworld.negatives --out FILE`.

What the base model says when it is kept from one of its inputs, as NaPO's authors sample it
(temperature 0.2, 3 beams): `question_only` answers the pair's prompt for a black image, `image_only`
the image without any question.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from uedpo.microworld.build import MODEL
from uedpo.microworld.data import MicroWorldPairs
from uedpo.microworld.scene import IMAGE_SIZE
from uedpo.runtime.say import say
from uedpo.types import PreferencePair

# the validation pairs of conf/data/microworld.yaml
NUM_VAL = 96


def negatives(
    model: Any, processor: Any, pairs: Sequence[PreferencePair], *, batch_size: int = 100, seed: int = 0
) -> list[dict[str, str]]:
    """Rows {id, question_only, image_only}, one a pair; a function of pairs, batch size and seed."""
    import torch

    black = Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE))
    torch.manual_seed(seed)
    question_only: dict[str, str] = {}
    for prompt in dict.fromkeys(pair.prompt for pair in pairs):  # one prompt a call
        ids = [pair.id for pair in pairs if pair.prompt == prompt]
        answers = _answer(model, processor, [black] * len(ids), prompt, batch_size)
        question_only |= dict(zip(ids, answers, strict=True))
    image_only = _answer(model, processor, [pair.image for pair in pairs], "", batch_size)
    return [
        {"id": pair.id, "question_only": question_only[pair.id], "image_only": text}
        for pair, text in zip(pairs, image_only, strict=True)
    ]


def _answer(
    model: Any, processor: Any, images: Sequence[Image.Image], prompt: str, batch_size: int
) -> list[str]:
    from uedpo.evaluation.decode import generate

    options: dict[str, Any] = {"max_new_tokens": 96, "batch_size": batch_size}
    return list(generate(model, processor, images, prompt, temperature=0.2, num_beams=3, **options))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--out", type=Path, required=True, help="file to write, as uedpo/assets/micro_negatives.jsonl.gz"
    )
    parser.add_argument("--train", type=int, default=0, help="first training pairs; 0 = all")
    parser.add_argument("--val", type=int, default=NUM_VAL, help="first validation pairs")
    if not sys.argv[1:]:
        parser.print_help()
        sys.exit(2)
    options = parser.parse_args()
    if not options.out.parent.is_dir():  # asked before minutes of sampling
        say(f"--out {options.out}: no such folder as {options.out.parent}; make it first", file=sys.stderr)
        sys.exit(2)
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained(MODEL, trust_remote_code=False)
    processor = AutoProcessor.from_pretrained(MODEL, trust_remote_code=False)
    sources = [MicroWorldPairs("train", options.train), MicroWorldPairs("val", options.val)]
    rows = [row for pairs in sources for row in negatives(model, processor, pairs)]
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    # mtime=0 keeps the bytes a function of the rows
    options.out.write_bytes(gzip.compress(data, mtime=0))
    print(f"{len(rows)} rows -> {options.out} ({options.out.stat().st_size / 1e3:.0f} kB)")


if __name__ == "__main__":
    main()
