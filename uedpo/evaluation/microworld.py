"""Captions of micro-world scenes against exact ground truth: CHAIR, coverage, attributes."""

from __future__ import annotations

from typing import Any

from uedpo.evaluation.generate import generate
from uedpo.metrics import ratio_metrics
from uedpo.microworld.grammar import PROMPTS
from uedpo.microworld.scene import Scene, make_scene, render
from uedpo.microworld.truth import ATTRIBUTE, POSITION, judge, read
from uedpo.types import NonNegativeInt, PositiveInt

# Scenes no training stage ever draws: see docs/microworld.md for the map of index ranges.
TEST_START = 1_000_000


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


class MicroWorldEvaluation:
    """Greedy captions of fresh scenes of both splits.

    Args:
        num_shift, num_train: scenes of the split that breaks the training co-occurrences, and of
            the one that follows them; 0 leaves a split out.
        start: index of the first scene.
        batch_size, max_new_tokens: generation.
    """

    def __init__(
        self,
        num_shift: NonNegativeInt = 400,
        num_train: NonNegativeInt = 200,
        start: NonNegativeInt = TEST_START,
        batch_size: PositiveInt = 100,
        max_new_tokens: PositiveInt = 96,
    ) -> None:
        self.sizes = {"shift": num_shift, "train": num_train}
        self.start, self.batch_size, self.max_new_tokens = start, batch_size, max_new_tokens

    def run(self, model: Any, processor: Any, progress: Any = None) -> dict[str, dict[str, Any]]:
        """split -> metric -> {value, low, high, numerator, denominator}."""
        result = {}
        for split, num in self.sizes.items():
            if not num:
                continue
            scenes = [make_scene(split, self.start + i) for i in range(num)]
            answers = generate(
                model,
                processor,
                [render(s) for s in scenes],
                PROMPTS[0],
                max_new_tokens=self.max_new_tokens,
                batch_size=self.batch_size,
            )
            counts = []
            for scene, answer in zip(scenes, answers, strict=True):
                counts.append(caption_counts(answer, scene))
                if progress is not None:
                    progress(1)
            result[split] = ratio_metrics(counts)
        return result

    @property
    def num_scenes(self) -> int:
        return sum(self.sizes.values())
