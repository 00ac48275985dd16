"""Rebuild what the package ships: `python -m uedpo.microworld.build model|pairs ...`.

Two cores: the base model takes about 25 minutes (tower 10, captions 13), the pairs about 2.
Index ranges of scenes, disjoint by construction: test 1,000,000+, tuning 2,000,000+, tower
10,000,000+, captions 20,000,000+, training pairs 30,000,000+, validation pairs 31,000,000+.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from uedpo.errors import InputError, os_line
from uedpo.microworld.grammar import PROMPTS, caption
from uedpo.microworld.pairs import correct, is_well_formed
from uedpo.microworld.scene import Scene, make_scene, render
from uedpo.microworld.truth import read
from uedpo.runtime.say import say

ASSETS = Path(__file__).parent.parent / "assets"
MODEL = ASSETS / "micro_llava"
PAIRS = ASSETS / "micro_pairs.jsonl.gz"
STARTS = {"tower": 10_000_000, "captions": 20_000_000, "train": 30_000_000, "val": 31_000_000}


def build_model(folder: Path) -> None:
    from uedpo.microworld.language import make_model, make_processor, train_captions
    from uedpo.microworld.vision import train_tower

    tower = train_tower(2600, STARTS["tower"])
    processor = make_processor()
    model = make_model(tower, processor)
    train_captions(model, processor, 1300, STARTS["captions"], invent=0.35, lr=3e-3)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def scenes(split: str, num: int) -> list[Scene]:
    """Training pairs come from both splits (7 of 10 shifted), validation pairs from the shifted."""
    start = STARTS[split]
    return [
        make_scene("train" if split == "train" and i % 10 < 3 else "shift", start + i) for i in range(num)
    ]


def known_words() -> frozenset[str]:
    """All words of 3,000 grammar captions."""
    texts = (caption(np.random.default_rng([17, i]), make_scene("shift", i)) for i in range(3000))
    return frozenset(w.text for text in texts for w in read(text).words)


def make_pairs(model: Any, processor: Any, split: str, num_scenes: int) -> Iterator[dict[str, str]]:
    """Sample captions at temperature 1 and correct those with an invented object."""
    import torch

    from uedpo.evaluation.decode import generate

    torch.manual_seed(STARTS[split])
    vocabulary = known_words()
    todo = scenes(split, num_scenes)
    for start in range(0, num_scenes, 500):
        chunk = todo[start : start + 500]
        images = [render(s) for s in chunk]
        prompt = PROMPTS[start // 500 % len(PROMPTS)]
        answers = generate(
            model, processor, images, prompt, max_new_tokens=96, batch_size=125, temperature=1.0
        )
        for scene, rejected in zip(chunk, answers, strict=True):
            if not rejected or not is_well_formed(rejected, vocabulary):
                continue
            chosen = correct(rejected, scene, np.random.default_rng([19, scene.index]))
            if chosen is not None and chosen != rejected:
                row = {"id": scene.id, "split": split, "prompt": prompt}
                yield {**row, "chosen": chosen, "rejected": rejected}


def build_pairs(folder: Path, path: Path, num_train: int = 9000, num_val: int = 900) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=False)
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
    rows = [*make_pairs(model, processor, "train", num_train), *make_pairs(model, processor, "val", num_val)]
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    # mtime=0 keeps the bytes a function of the rows
    path.write_bytes(gzip.compress(data, mtime=0))
    print(f"{len(rows)} pairs -> {path} ({path.stat().st_size / 1e3:.0f} kB)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", nargs="+", choices=["model", "pairs"], help="what to build, over what ships")
    parser.add_argument("--assets", type=Path, default=ASSETS, help="folder to write to")
    if not sys.argv[1:]:
        parser.print_help()
        sys.exit(2)
    options = parser.parse_args()
    model = options.assets / MODEL.name
    try:
        options.assets.mkdir(parents=True, exist_ok=True)
        if "model" not in options.what and not (model / "config.json").is_file():
            raise InputError(
                f"--assets {options.assets}: no {MODEL.name} to make pairs with; build model pairs"
            )
    except (InputError, OSError) as error:
        say(os_line(error) if isinstance(error, OSError) else error, file=sys.stderr)
        sys.exit(2)
    if "model" in options.what:
        build_model(model)
    if "pairs" in options.what:
        build_pairs(model, options.assets / PAIRS.name)


if __name__ == "__main__":
    main()
