"""A forced choice after POPE: which of two objects does the model say is in the image?

POPE asks yes or no; the micro-world's model knows no such dialogue, so both answers are scored and
the likelier one counts. The object that is not there is the main object's companion where that is
absent (POPE's adversarial setting), else any other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from uedpo.data.collate import PairCollator
from uedpo.microworld.grammar import PROMPTS, SYNONYMS
from uedpo.microworld.scene import CATEGORIES, COMPANION, SPLITS, Scene
from uedpo.scoring.plain import score
from uedpo.types import PreferencePair

# The first words of a caption announce its main object ("There is ..."); these may precede any.
OPENING = "In the background we can see"
# no row is ever cut, whatever the tokenizer
_ALL_TOKENS = 1024


def question(scene: Scene) -> tuple[str, str]:
    """A category that is in `scene` and one that is not: a pure function of the scene."""
    rng = np.random.default_rng([23, SPLITS[scene.split], scene.index])
    present = scene.items[int(rng.integers(len(scene.items)))].category
    absent = COMPANION[scene.items[0].category]
    if scene.find(absent) is not None:
        absent = str(rng.choice([c for c in CATEGORIES if scene.find(c) is None]))
    return present, absent


def answer(category: str) -> str:
    """The sentence up to its noun; article and noun are all that tells two answers apart."""
    noun = SYNONYMS[category][0]
    return f"{OPENING} {'an' if noun[0] in 'aeiou' else 'a'} {noun}"


@torch.no_grad()
def forced_choice(
    model: Any, processor: Any, scenes: Sequence[Scene], images: Sequence[Image.Image], batch_size: int
) -> Iterator[bool]:
    """Yield for each scene whether what is there is likelier to be named than what is not.

    Args:
        images: of the scenes.
        batch_size: scenes scored at once.
    """
    training = model.training
    model.eval()
    device = next(model.parameters()).device
    collate = PairCollator(processor, _ALL_TOKENS)
    try:
        for start in range(0, len(scenes), batch_size):
            pairs = []
            for scene, image in zip(scenes[start:][:batch_size], images[start:][:batch_size], strict=True):
                present, absent = question(scene)
                pairs.append(PreferencePair(scene.id, image, PROMPTS[0], answer(present), answer(absent)))
            batch = collate(pairs).to(device)
            lengths = batch.mask.sum(-1, keepdim=True)
            logps = score(model, batch).logps
            # the end token would ask whether the sentence may stop here, not what it names
            totals = logps.sum(-1) - logps.gather(-1, lengths - 1).squeeze(-1)
            there, not_there = totals.chunk(2)
            yield from (there > not_there).tolist()
    finally:
        model.train(training)
