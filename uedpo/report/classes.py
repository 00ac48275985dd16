"""u, Delta and lambda by class of token, where the truth of each token is known (the micro-world)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from uedpo.microworld.truth import ATTRIBUTE, OBJECT

Token = dict[str, Any]


def class_of(token: Token) -> str:
    """Class of a traced token: objects by size and truth, attributes by truth, others by kind."""
    kind, right = str(token["kind"]), token["right"]
    if kind == OBJECT:
        if not right:
            return "object that is not there"
        return "small object in the background" if token["size"] == "small" else "large or medium object"
    if kind == ATTRIBUTE:
        return "attribute" if right else "attribute, wrong"
    return kind


# rows in order; others follow
ORDER = (
    "large or medium object", "small object in the background", "object that is not there",
    "attribute", "attribute, wrong", "position", "place", "function word", "full stop", "end",
)  # fmt: skip


def class_table(traces: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """{"pairs": n, side: [{class, tokens, before: {...}, after: {...}}]}.

    Of each class: "selected" and "zero" (u is 0) as shares, and the means of u, delta and weight; all
    of them are absent where the traces have no signals.
    """
    table: dict[str, Any] = {"pairs": len(traces)}
    for side in ("chosen", "rejected"):
        groups: dict[str, dict[str, list[Token]]] = {}
        for trace in traces:
            for when, tokens in trace[side].items():
                for token in tokens:
                    groups.setdefault(class_of(token), {}).setdefault(when, []).append(token)
        names = [n for n in ORDER if n in groups] + sorted(n for n in groups if n not in ORDER)
        table[side] = [
            {"class": name, "tokens": len(next(iter(groups[name].values())))}
            | {when: _means(tokens) for when, tokens in groups[name].items()}
            for name in names
        ]
    return table


def _means(tokens: Sequence[Token]) -> dict[str, float]:
    if "u" not in tokens[0]:
        return {"logp": _mean(t["logp"] for t in tokens)}
    return {
        "logp": _mean(t["logp"] for t in tokens),
        "selected": _mean(t["type"] != "" for t in tokens),
        "zero": _mean(t["u"] == 0 for t in tokens),
        **{name: _mean(t[name] for t in tokens) for name in ("u", "delta", "weight")},
    }


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return round(sum(listed) / len(listed), 4)
