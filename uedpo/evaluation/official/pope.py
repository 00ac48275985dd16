"""POPE (Li et al., 2305.10355) as its evaluate.py scores it: yes/no by word, matched by line order."""

from __future__ import annotations

import re
from collections.abc import Sequence

from uedpo.evaluation.official.outcome import Mode, Scored, Undefined, ratio

METRICS = ("accuracy", "precision", "recall", "f1", "yes_ratio")
_NO = {"No", "not", "no"}
_OPENS = re.compile(r"\s*(yes|no)\b", re.IGNORECASE)


def says_yes(answer: str) -> bool:
    """The official reading: no "No", "not" or "no" between single spaces of the first sentence.

    Everything else is a yes, an empty answer and "NO" included.
    """
    words = answer.partition(".")[0].replace(",", "").split(" ")
    return _NO.isdisjoint(words)


def is_plain(answer: str) -> bool:
    """Whether the first word is yes or no and the official reading agrees; what `strict` asks for."""
    opening = _OPENS.match(answer)
    return opening is not None and (opening[1].lower() == "yes") == says_yes(answer)


def score(answers: Sequence[str], labels: Sequence[bool], mode: Mode = "official") -> Scored:
    """All five numbers; positive is yes.

    Args:
        answers: in the order of `labels`. As in the script, the longer of the two is cut, and
            `yes_ratio` alone is over all answers.
        labels: whether yes is right.

    Raises:
        Undefined: a division by zero (the script dies), or in `strict` an answer that can be read
            in two ways.
    """
    if mode == "strict":
        for i, answer in enumerate(answers):
            if not is_plain(answer):
                raise Undefined(f"{answer[:60]!a} is no plain yes or no", i)
    said = [says_yes(a) for a in answers]
    counts, metrics = _count(said, labels)
    counts["yes_answers"] = sum(said)
    warnings = []
    if len(said) > len(labels):
        counts["extra"] = len(said) - len(labels)
        warnings.append("more answers than labels: the script ignores the last ones, except in yes_ratio")
    always_yes = _count([True] * len(labels), labels)[1] if any(labels) else {}
    return Scored({**metrics}, counts, {"always_yes": always_yes} if always_yes else {}, warnings=warnings)


def _count(said: Sequence[bool], labels: Sequence[bool]) -> tuple[dict[str, float], dict[str, float]]:
    pairs = list(zip(said, labels, strict=False))
    true_yes, true_no = pairs.count((True, True)), pairs.count((False, False))
    false_yes, false_no = pairs.count((True, False)), pairs.count((False, True))
    yes_ratio = ratio(sum(said), len(said), "yes_ratio: no answers")
    precision = ratio(true_yes, true_yes + false_yes, "precision: no answer is yes")
    recall = ratio(true_yes, true_yes + false_no, "recall: no label is yes")
    f1 = ratio(2 * precision * recall, precision + recall, "f1: no yes is right")
    counts: dict[str, float] = {
        "true_yes": true_yes,
        "false_yes": false_yes,
        "true_no": true_no,
        "false_no": false_no,
    }
    accuracy = (true_yes + true_no) / len(pairs)
    values = (accuracy, precision, recall, f1, yes_ratio)
    return counts, dict(zip(METRICS, values, strict=True))
