"""What there is to choose from, with keys, ranges and defaults: `uedpo list [WHAT] [NAME]`.

  uedpo list                   what can be listed
  uedpo list methods           every file of conf/method, with a sentence and its keys
  uedpo list losses dpo        one of them
WHAT is a group of conf/ (method or methods), devices, or config for the keys that belong to no group.
"""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Sequence

from uedpo.cli.catalogue import Entry, entries
from uedpo.config.choices import choices_of, group_names
from uedpo.config.command_line import answer
from uedpo.errors import InputError

OTHERS = ("devices", "config")
PLURALS = {"losses": "loss"}


def listed(arguments: Sequence[str]) -> str:
    """The answer to `uedpo list *arguments`.

    Raises:
        InputError: no such group, or no such file in it.
    """
    if len(arguments) > 2 or any(a.startswith("-") for a in arguments):
        raise InputError(
            f"{' '.join(arguments)[:100]}: give at most WHAT and NAME, as in uedpo list losses dpo"
        )
    if not arguments:
        return "\n".join(wrapped(f"{name:12}{counted(name)}", 12) for name in [*group_names(), *OTHERS])
    group, *names = group_of(arguments[0]), *arguments[1:]
    if group == "devices":
        return devices()
    found = entries(group)
    if names:
        found = [entry for entry in found if entry.name == names[0]]
        if not found:
            raise InputError(nothing(names[0], [entry.name for entry in entries(group)]))
    return "\n\n".join(map(shown, found))


def counted(name: str) -> str:
    """What `uedpo list` says of a group."""
    if name == "devices":
        return "for uedpo plan device=NAME"
    if name == "config":
        return "keys that belong to no group"
    return ", ".join(choices_of(name))


def group_of(what: str) -> str:
    """The group that a word means, in the singular or the plural.

    Raises:
        InputError: there is none.
    """
    known = [*group_names(), *OTHERS]
    for name in (what, PLURALS.get(what, ""), what.removesuffix("s"), f"{what}s"):
        if name in known:
            return name
    raise InputError(nothing(what, known))


def nothing(name: str, known: Sequence[str]) -> str:
    """One line for a name that is not there."""
    close = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"{name[:100]}: nothing of that name; {hint}there are {', '.join(known)}"


def shown(entry: Entry) -> str:
    """A file of conf/: its name, its sentence, and a line for each of its keys."""
    lines = [entry.name, wrapped(f"  {entry.sentence}", 2)]
    if entry.chooses:
        lines.append(wrapped(f"  chooses {' '.join(entry.chooses)}", 4))
    for key in entry.keys:
        said = "; ".join(part for part in (key.takes, key.comment) if part)
        lines.append(wrapped(f"{f'    {key.name}={key.default}':44}  {said}".rstrip(), 46))
    return "\n".join(line for line in lines if line.strip())


def wrapped(line: str, indent: int) -> str:
    """A line of at most 120 columns, and what goes on below it."""
    pieces = textwrap.wrap(
        line, 120, subsequent_indent=" " * indent, break_on_hyphens=False, replace_whitespace=False
    )
    return "\n".join(pieces)


def devices() -> str:
    """The devices that `uedpo plan` knows."""
    from uedpo.plan.devices import DEVICES

    lines = [f"{'device':10}{'memory':>10}{'bf16':>14}{'fp32':>14}"]
    for name, device in DEVICES.items():
        cells = (
            f"{device.gb:.1f} GB" if device.gb else "as it has",
            f"{device.bf16:.0f} TFLOP/s" if device.bf16 else "give it",
            f"{device.fp32:.0f} TFLOP/s" if device.fp32 else "give it",
        )
        lines.append(f"{name:10}{cells[0]:>10}{cells[1]:>14}{cells[2]:>14}")
    return "\n".join([*lines, "another one: device_gb= and device_tflops="])


def main() -> int:
    """Entry point: exit code 0, or 2 with a line on what there is not."""
    return answer(__doc__, lambda arguments: listed(arguments))


if __name__ == "__main__":
    raise SystemExit(main())
