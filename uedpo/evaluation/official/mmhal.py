"""MMHal-Bench (Sun et al., 2309.14525): the rating in each reply of the judge, then means.

Rows are matched by position: the question type of row i is TYPES[i % 8].
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from uedpo.evaluation.official.outcome import Mode, Scored, Undefined, ratio

NUM_ROWS = 96
TYPES = (
    "attribute",
    "adversarial",
    "comparison",
    "counting",
    "relation",
    "environment",
    "holistic",
    "other",
)
METRICS = (
    "average_score",
    "hallucination_rate",
    "informativeness",
    *(f"average_score/{name}" for name in TYPES),
)
_STRICT = re.compile(r"rating: ([0-6])(?![\d.]*\d)")


def rating(reply: str) -> int | None:
    """The one s of 0 to 6 for which "rating: s" occurs; None where none or several do.

    "Rating: 10" is 1 and "rating: 4.5" is 4; "**Rating:** 4" and "Rating:4" are None.
    """
    found = [s for s in range(7) if f"rating: {s}" in reply.lower()]
    return found[0] if len(found) == 1 else None


def score(replies: Mapping[int, str], mode: Mode = "official") -> Scored:
    """Scores 0 to 6; a reply without one rating scores 0, and below 3 is a hallucination.

    Args:
        replies: row index -> the judge's reply.

    Raises:
        Undefined: no rows, or in `strict` a reply that is not one whole number of 0 to 6.
    """
    ratings = {i: rating(reply) for i, reply in sorted(replies.items())}
    if mode == "strict":
        for i, value in ratings.items():
            if value is None or not _STRICT.search(replies[i].lower()):
                raise Undefined(f"reply {i}: {replies[i][-60:]!a} has no single rating of 0 to 6")
    scores = {i: value or 0 for i, value in ratings.items()}
    n, values = len(scores), list(scores.values())
    unparsable = sum(value is None for value in ratings.values())
    hallucinated = sum(s < 3 for s in values)
    informative = sum(s - 3 if s >= 3 else s for s in values)
    metrics: dict[str, float | None] = {
        "average_score": ratio(sum(values), n, "average_score: no rows"),
        "hallucination_rate": hallucinated / n,
        "informativeness": informative / n / 3 * 100,
    }
    counts: dict[str, float] = {"hallucinated": hallucinated, "unparsable_ratings": unparsable}
    for position, name in enumerate(TYPES):
        of_type = [s for i, s in scores.items() if i % len(TYPES) == position]
        counts[f"{name}/rows"] = len(of_type)
        # only a partial set has a type without rows
        metrics[f"average_score/{name}"] = sum(of_type) / len(of_type) if of_type else None
    warnings = [f"{unparsable} replies without a single rating count as 0"] if unparsable else []
    return Scored(metrics, counts, printed=_printed(metrics), warnings=warnings)


def _printed(metrics: Mapping[str, float | None]) -> dict[str, str]:
    """RLAIF-V's eval prints the rate with three decimals; its summary and LLaVA-RLHF with two."""
    texts = {
        "average_score": f"{metrics['average_score']:.2f}",
        "hallucination_rate": f"{metrics['hallucination_rate']:.3f}",
        "hallucination_rate (LLaVA-RLHF)": f"{metrics['hallucination_rate']:.2f}",
        "informativeness": f"{metrics['informativeness']:.2f}",
    }
    by_type = {name: metrics[name] for name in METRICS if "/" in name}
    return texts | {name: str(round(v, 2)) for name, v in by_type.items() if v is not None}
