"""Captions of micro-world scenes against exact ground truth: CHAIR, coverage, attributes, POPE."""

from __future__ import annotations

from typing import Any, NamedTuple

from PIL import Image

from uedpo.evaluation.decode import generate
from uedpo.microworld.forced_choice import forced_choice
from uedpo.microworld.grammar import PROMPTS
from uedpo.microworld.scene import TEST_START, Scene, make_scene, render
from uedpo.microworld.truth import ATTRIBUTE, POSITION, judge, read
from uedpo.results.statistics import ratio_metrics
from uedpo.types import NonNegativeInt, PositiveInt


def caption_counts(text: str, scene: Scene) -> dict[str, int]:
    """What one caption says of its scene, as counts that `ratio_metrics` can sum.

    CHAIR counts mentions (a noun phrase each, repeats included) as the official script does;
    coverage counts categories; attributes and positions count only those of objects that are there.
    """
    reading = judge(read(text), scene)
    mentioned = {m.category for m in reading.mentions}
    wrong = sum(not reading.words[m.noun].right for m in reading.mentions)
    there = [m for m in reading.mentions if reading.words[m.noun].right]
    attributes = [bool(reading.words[i].right) for m in there for i in m.attributes]
    positions = [bool(reading.words[i].right) for m in there for i in m.positions]
    positions += [bool(reading.words[m.relation[0]].right) for m in there if m.relation]
    small = [item.category for item in scene.items if item.size == "small"]
    return {
        "captions": 1,
        "words": sum(w.text not in ".," for w in reading.words),
        "mentions": len(reading.mentions),
        "hallucinated": wrong,
        "hallucinated_captions": int(wrong > 0),
        "present": len(scene.items),
        "found": sum(item.category in mentioned for item in scene.items),
        "small_present": len(small),
        "small_found": sum(c in mentioned for c in small),
        ATTRIBUTE + "s": len(attributes),
        ATTRIBUTE + "s_right": sum(attributes),
        POSITION + "s": len(positions),
        POSITION + "s_right": sum(positions),
    }


class Evaluated(NamedTuple):
    """split -> metric -> {value, low, high, numerator, denominator}; split -> counts of each scene."""

    metrics: dict[str, dict[str, Any]]
    counts: dict[str, list[dict[str, int]]]


class MicroWorldEvaluation:
    """Greedy captions of fresh scenes of both splits, and a forced choice between two objects.

    Args:
        num_shift, num_train: scenes of the split that breaks the training co-occurrences, and of
            the one that follows them; 0 leaves a split out.
        start: index of the first scene.
        batch_size, max_new_tokens: generation.
        pope_every: one scene in so many gets the forced choice of `forced_choice.py`; 0 leaves it out.
    """

    def __init__(
        self,
        num_shift: NonNegativeInt = 400,
        num_train: NonNegativeInt = 200,
        start: NonNegativeInt = TEST_START,
        batch_size: PositiveInt = 100,
        max_new_tokens: PositiveInt = 96,
        pope_every: NonNegativeInt = 4,
    ) -> None:
        self.sizes = {"shift": num_shift, "train": num_train}
        self.start, self.batch_size, self.max_new_tokens = start, batch_size, max_new_tokens
        self.pope_every = pope_every

    def run(self, model: Any, processor: Any, progress: Any = None) -> Evaluated:
        """Evaluate a model; `progress` is called with 1 after each scene."""
        counts: dict[str, list[dict[str, int]]] = {}
        for split, num in self.sizes.items():
            if not num:
                continue
            scenes = [make_scene(split, self.start + i) for i in range(num)]
            images = [render(s) for s in scenes]
            choices = self._choices(model, processor, scenes, images)
            answers = generate(
                model,
                processor,
                images,
                PROMPTS[0],
                max_new_tokens=self.max_new_tokens,
                batch_size=self.batch_size,
            )
            counts[split] = []
            for scene, answer, choice in zip(scenes, answers, choices, strict=True):
                counts[split].append(caption_counts(answer, scene) | choice)
                if progress is not None:
                    progress(1)
        return Evaluated({split: ratio_metrics(rows) for split, rows in counts.items()}, counts)

    def _choices(
        self, model: Any, processor: Any, scenes: list[Scene], images: list[Image.Image]
    ) -> list[dict[str, int]]:
        counts = [{"pope": 0, "pope_right": 0} for _ in scenes]
        if self.pope_every:
            asked = slice(0, None, self.pope_every)
            right = forced_choice(model, processor, scenes[asked], images[asked], self.batch_size)
            counts[asked] = [{"pope": 1, "pope_right": int(r)} for r in right]
        return counts

    @property
    def num_scenes(self) -> int:
        return sum(self.sizes.values())
