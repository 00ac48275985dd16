"""AMBER's discriminative task (Wang et al., 2311.07397) as its inference.py scores it.

An answer counts only where it is exactly "Yes" or "No"; the positive class is No. Counters are floats
that start at 0.001 and are added to one by one, and F1 is made of P and R that are rounded already.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from uedpo.evaluation.official.outcome import Mode, Scored, Undefined, ratio

START = 0.001
KINDS = {
    "discriminative-attribute-state": "State",
    "discriminative-attribute-number": "Number",
    "discriminative-attribute-action": "Action",
    "discriminative-hallucination": "Existence",
}
# the script's else branch: "relation" and "discriminative-relation" alike
OTHER_KINDS = ("relation", "discriminative-relation")
LEAVES = ("State", "Number", "Action", "Existence", "Relation")
ATTRIBUTE = ("State", "Number", "Action")
SECTIONS = ("", "Existence/", "Attribute/", "State/", "Number/", "Action/", "Relation/")
QUANTITIES = ("Accuracy", "Precision", "Recall", "F1")
METRICS = (*(section + quantity for section in SECTIONS for quantity in QUANTITIES), "no_ratio")


class Question(NamedTuple):
    """An annotation (`kind` is its type string, `truth` whether yes is right) and the answer to it."""

    kind: str
    truth: bool
    answer: str


@dataclass
class _Counters:
    """Sums of one section: `_num` are denominators."""

    correct: int = 0
    correct_num: float = START
    no: int = 0
    no_num: float = START
    answered_no: int = 0
    answered_no_num: float = START

    def add(self, truth: bool, answer: str) -> None:
        said_no = answer == "No"
        self.correct_num += 1
        if truth:
            self.correct += answer == "Yes"
        else:
            self.no_num += 1
            self.correct += said_no
            self.no += said_no
        if said_no:
            self.answered_no_num += 1
            self.answered_no += not truth


def score(questions: Sequence[Question], mode: Mode = "official") -> Scored:
    """Accuracy, Precision, Recall and F1 in per cent, of all questions and of each section.

    Besides: `no_ratio`, the share of answers that are exactly "No", and the same numbers for always
    answering "No" and always "Yes", because the first beats published models.

    Raises:
        Undefined: no answers; in `strict` also an answer that is neither, or a ratio of 0/0.
    """
    if mode == "strict":
        for i, question in enumerate(questions):
            if question.answer not in ("Yes", "No"):
                raise Undefined(f"{question.answer[:60]!a} is neither exactly Yes nor No", i)
    counters = _counters(questions)
    if mode == "strict":
        _refuse_empty(counters)
    answers = [q.answer for q in questions]
    yes, no = answers.count("Yes"), answers.count("No")
    counts: dict[str, float] = {"Yes": yes, "No": no, "neither": len(answers) - yes - no}
    counts |= {f"{leaf}/answers": sum(_leaf(q.kind) == leaf for q in questions) for leaf in LEAVES}
    metrics: dict[str, float | None] = {**_metrics(counters), "no_ratio": ratio(no, len(answers), "no_ratio")}
    warnings = []
    if counts["neither"]:
        warnings.append(f"{counts['neither']} answers are neither exactly Yes nor No and count as wrong")
    return Scored(metrics, counts, baselines(questions), warnings=warnings)


def baselines(questions: Iterable[Question]) -> dict[str, dict[str, float]]:
    """What always answering "No", and always "Yes", scores on these questions."""
    asked = list(questions)
    return {
        f"always_{word.lower()}": _metrics(_counters([q._replace(answer=word) for q in asked]))
        for word in ("No", "Yes")
    }


def _leaf(kind: str) -> str:
    return KINDS.get(kind, "Relation")


def _counters(questions: Iterable[Question]) -> dict[str, _Counters]:
    counters = {section: _Counters() for section in ("", *LEAVES)}
    for question in questions:
        for section in ("", _leaf(question.kind)):
            counters[section].add(question.truth, question.answer)
    return counters


def _metrics(counters: dict[str, _Counters]) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for section in SECTIONS:
        name = section.rstrip("/")
        parts = [counters[part] for part in (ATTRIBUTE if name == "Attribute" else (name,))]
        accuracy = _percent([p.correct for p in parts], [p.correct_num for p in parts])
        precision = _percent([p.answered_no for p in parts], [p.answered_no_num for p in parts])
        recall = _percent([p.no for p in parts], [p.no_num for p in parts])
        e = 0.001 if name == "Existence" else 0.0001
        p, r = precision / 100, recall / 100
        f1 = round(2 * p * r / (p + r + e) * 100, 1)
        values = (accuracy, precision, recall, f1)
        metrics |= {section + q: v for q, v in zip(QUANTITIES, values, strict=True)}
    return metrics


def _percent(scores: list[int], nums: list[float]) -> float:
    # Attribute sums three denominators, 0.003 too much, in this order: sum() would start at 0 and,
    # from Python 3.12 on, compensate rounding, so it is not the script's sum
    num = nums[0]
    for other in nums[1:]:
        num = num + other
    return round(sum(scores) / num * 100, 1)


def _refuse_empty(counters: dict[str, _Counters]) -> None:
    for section, c in counters.items():
        for what, num in (("answer", c.correct_num), ("truth no", c.no_num), ("No", c.answered_no_num)):
            if num == START:
                raise Undefined(f"{section or 'all'}: no {what}, so 0/0 (the official script prints 0.0)")
