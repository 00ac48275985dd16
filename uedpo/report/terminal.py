"""A traced pair in the terminal: coloured where there are colours, else a plain table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.style import Style
from rich.text import Text

from uedpo.errors import plain_line
from uedpo.report.heatmap import SIGNALS, Scale, Token, scales

# backgrounds of levels 1..4 above and below the neutral value; text is black on all of them
ABOVE = ("#fdeedd", "#fbd6b0", "#f7b67b", "#f09644")
BELOW = ("#e3eff9", "#c1dcf3", "#94c3ea", "#64a8e0")
SIDES = ("chosen", "rejected")


def show(trace: dict[str, Any], when: str, name: str, console: Console | None = None) -> None:
    """Print both answers of a pair as `when` ("before" or "after") has them, by u, Delta and lambda.

    Args:
        name: of the model.
    """
    console = console or Console()
    scale = scales([trace])
    plain = not console.is_terminal or console.no_color or console.color_system is None or scale is None
    console.print(Text(_clean(f"{trace['prompt']}  ({trace['id']}, {name})"), style="bold"), soft_wrap=True)
    for side in SIDES:
        tokens = trace[side][when]
        if plain or scale is None:
            console.print(Text(table(side, tokens)), soft_wrap=True)
            continue
        for signal, (_, _, _, symbol) in SIGNALS.items():
            label = (f"{side:9}{symbol} ", "dim")
            console.print(Text.assemble(label, coloured(tokens, signal, scale[signal])))
        console.print()
    if not plain and scale is not None:
        console.print(_legend(scale["weight"]))


def coloured(tokens: Sequence[Token], signal: str, scale: Scale) -> Text:
    """The tokens of an answer on the colours of one signal; its strongest levels are underlined too."""
    line = Text()
    for token in tokens:
        level = scale.level(float(token[signal])) if signal in token else 0
        text = _clean(str(token["text"]))
        bare = text.lstrip(" ")
        line.append(text[: len(text) - len(bare)])
        line.append(bare, _style(level))
    return line


def table(side: str, tokens: Sequence[Token]) -> str:
    """One line a token: side, token, log-probability, u, Delta, lambda, type."""
    rows = [f"{side:9}{'token':18}{'log p':>8}{'u':>8}{'Delta':>8}{'lambda':>8}  type"]
    for token in tokens:
        numbers = [f"{float(token['logp']):8.2f}"]
        numbers += [f"{float(token[k]):8.2f}" if k in token else f"{'-':>8}" for k in ("u", "delta")]
        numbers.append(f"{float(token['weight']):8.3f}" if "weight" in token else f"{'-':>8}")
        rows.append(
            f"{'':9}{_clean(str(token['text']).strip()):18}{''.join(numbers)}  {token.get('type', '')}"
        )
    return "\n".join(row.rstrip() for row in rows)


def _style(level: int) -> Style:
    if not level:
        return Style()
    colours = ABOVE if level > 0 else BELOW
    return Style(color="#000000", bgcolor=colours[abs(level) - 1], underline=abs(level) > 2, bold=level > 2)


def _legend(scale: Scale) -> Text:
    text = Text("λ: ")
    for row in scale.legend():
        n = row["index"]
        text.append(f" {row['text']} ", _style(n if n < 5 else 4 - n))
        text.append(" ")
    return text


def _clean(text: str) -> str:
    """Without what acts on a terminal."""
    return plain_line(ValueError(text)).replace("\n", " ")
