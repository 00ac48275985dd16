"""CHAIR (Rohrbach et al., 1809.02156) as its chair.py scores captions of COCO images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from uedpo.evaluation.official.coco import Mention
from uedpo.evaluation.official.outcome import Scored, ratio

METRICS = ("CHAIRs", "CHAIRi")


class Caption(NamedTuple):
    """What a caption mentions, every time it does, and the nodes that are in its image."""

    mentions: Sequence[Mention]
    truth: frozenset[str]


def score(captions: Sequence[Caption]) -> Scored:
    """CHAIRs: captions with a mention that is not there; CHAIRi: mentions that are not there.

    Fractions; the script prints per cent with one decimal.

    Raises:
        Undefined: no captions, or none mentions an object (the script dies of a division by zero).
    """
    wrong = [sum(m.node not in c.truth for m in c.mentions) for c in captions]
    num_mentions = sum(len(c.mentions) for c in captions)
    hallucinated = sum(w > 0 for w in wrong)
    metrics = {
        "CHAIRs": ratio(hallucinated, len(captions), "CHAIRs: no captions"),
        "CHAIRi": ratio(sum(wrong), num_mentions, "CHAIRi: no caption mentions an object"),
    }
    counts: dict[str, float] = {
        "captions": len(captions),
        "hallucinated_captions": hallucinated,
        "mentions": num_mentions,
        "hallucinated_mentions": sum(wrong),
    }
    return Scored({**metrics}, counts, printed={k: f"{v * 100:.1f}" for k, v in metrics.items()})
