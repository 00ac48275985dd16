"""Tokens as a heat map: each signal in nine levels, told by colour and by the line under the token."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup, escape

Token = dict[str, Any]
STEPS = 4  # levels on each side of the neutral one
# signal -> (letter of its class before and after training, neutral value, symbol)
SIGNALS = {
    "u": ("u", "U", 0.0, "u"),
    "delta": ("d", "D", 0.0, "Δ"),
    "weight": ("w", "W", 1.0, "λ"),
}
WHENS = ("before", "after")


class Scale(NamedTuple):
    """Distance from the neutral value at which the last level begins, of one signal."""

    neutral: float
    top: float

    def level(self, value: float) -> int:
        """0 for neutral, 1..4 above it, -1..-4 below it."""
        if not self.top:
            return 0
        level = min(STEPS, round(STEPS * abs(value - self.neutral) / self.top))
        return level if value > self.neutral else -level

    def legend(self) -> list[dict[str, Any]]:
        """Each level with its class and the values it stands for, from the lowest."""
        size = self.top / STEPS
        rows = []
        for level in range(-STEPS, STEPS + 1):
            low, high = self.neutral + (level - 0.5) * size, self.neutral + (level + 0.5) * size
            text = f"{low:.2f} to {high:.2f}"
            if abs(level) == STEPS:
                text = f"below {high:.2f}" if level < 0 else f"above {low:.2f}"
            rows.append({"index": index(level), "text": text})
        return rows


def index(level: int) -> int:
    """Number of a level in class names: 0, 1..4 above, 5..8 below."""
    return level if level >= 0 else STEPS - level


def scales(traces: Iterable[dict[str, Any]]) -> dict[str, Scale] | None:
    """A scale per signal for all tokens of the page; None where no token has signals.

    u and Delta reach to the 95th percentile of their size, lambda to its largest distance from 1.
    """
    sides = [trace[side] for trace in traces for side in ("chosen", "rejected")]
    tokens = [t for whens in sides for row in whens.values() for t in row if "weight" in t]
    if not tokens:
        return None
    found = {}
    for name, (_, _, neutral, _) in SIGNALS.items():
        sizes = sorted(size for t in tokens if (size := abs(float(t[name]) - neutral)) > 0)
        at = len(sizes) - 1 if name == "weight" else int(0.95 * len(sizes))
        found[name] = Scale(neutral, sizes[min(at, len(sizes) - 1)] if sizes else 0.0)
    return found


def heat(whens: dict[str, Sequence[Token]], scale: dict[str, Scale] | None, numbers: bool) -> Markup:
    """The tokens of one response, with the levels of all signals before and after training in a <i> each.

    Args:
        whens: "before" and perhaps "after" -> the same tokens.
        numbers: carry the values themselves, for the switch that shows them and for the pointer.
    """
    parts: list[Markup] = []
    for states in zip(*whens.values(), strict=True):
        named = dict(zip(whens, states, strict=True))
        classes, values = [], Markup("")
        for when, token in named.items():
            if scale is None or "weight" not in token:
                continue
            for name, letters in SIGNALS.items():
                letter, value = letters[WHENS.index(when)], float(token[name])
                level = scale[name].level(value)
                classes += [f"{letter}{index(level)}"] if level else []
                if numbers:
                    values += Markup(' data-{}="{}"').format(f"{name[0]}{when[0]}", f"{value:.2f}")
        if states[0].get("word") and states[0].get("right") is False:
            classes.append("x")
        if not numbers and not classes:
            parts.append(escape(states[0]["text"]))
            continue
        tip = Markup(' title="{}"').format(_tip(named)) if numbers else ""
        kinds = Markup(' class="{}"').format(" ".join(classes)) if classes else ""
        text = str(states[0]["text"])
        bare = text.lstrip(" ")  # the colour begins with the word
        space = text[: len(text) - len(bare)] if parts else ""
        parts.append(Markup("{}<i{}{}{}>{}</i>").format(space, kinds, values, tip, bare))
    return Markup("").join(parts)


def _tip(named: dict[str, Token]) -> str:
    lines = []
    for when, token in named.items():
        line = f"{'base model' if when == 'before' else 'trained'}: log p {float(token['logp']):.2f}"
        if "weight" in token:
            kind = f", Type {token['type']}" if token["type"] in ("I", "II") else ""
            line += f", u {float(token['u']):.2f}, Δ {float(token['delta']):.2f}"
            line += f", λ {float(token['weight']):.3f}{kind}"
        lines.append(line)
    return "\n".join(lines)


def strongest(tokens: Sequence[Token], side: str, model: str = "base model") -> str:
    """The three tokens whose weight is farthest from 1, in words; "" where none is."""
    moved = [t for t in tokens if "weight" in t and t["weight"] != 1 and str(t["text"]).strip()]
    moved.sort(key=lambda t: -abs(float(t["weight"]) - 1))
    named = ", ".join(f"“{str(t['text']).strip()}” {float(t['weight']):.2f}" for t in moved[:3])
    verb = "Pressed hardest" if side == "chosen" else "Spared most"
    return f"{verb}: {named} (λ, {model})." if named else ""
