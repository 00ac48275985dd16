"""What there is in conf/: each file with a sentence, what it chooses, and its keys. Imports nothing heavy."""

from __future__ import annotations

import re
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

import yaml

from uedpo.config import signatures
from uedpo.config.choices import conf_folder
from uedpo.config.validate import TOP, bounds, schema

TYPES = {int: "an integer", float: "a number", str: "text", bool: "true or false", type(None): "null"}
_KEY = re.compile(r"^( *)([A-Za-z_]\w*):([^#]*)(?:# *(.*))?$")


class Key(NamedTuple):
    """A key of a file: its full name, its default as written, what it takes, and the file's comment."""

    name: str
    default: str
    takes: str
    comment: str


class Entry(NamedTuple):
    """A file of conf/GROUP: what it is, the files that it chooses, and its own keys."""

    name: str
    sentence: str
    chooses: list[str]
    keys: list[Key]


def entries(group: str) -> list[Entry]:
    """The files of a group; for "config", conf/config.yaml itself."""
    if group == "config":
        return [_entry(conf_folder() / "config.yaml", "")]
    return [_entry(file, group) for file in sorted((conf_folder() / group).glob("*.yaml"))]


def _entry(file: Path, group: str) -> Entry:
    text = file.read_text(encoding="utf-8")
    content = yaml.safe_load(text) or {}
    whole = "# @package _global_" in text or not group
    remarks = re.match(r"(?:#.*\n)*", text)
    lines = [line[1:].strip() for line in (remarks[0] if remarks else "").splitlines()]
    target = content.get("_target_")
    said = " ".join(line for line in lines if not line.startswith("@package")) or _docstring(target)
    chooses = [c for d in content.get("defaults", []) if (c := _choice(d, group))]
    prefix = "" if whole else f"{group}."
    plain = {k: v for k, v in content.items() if k not in ("defaults", "hydra")}
    return Entry(file.stem, said, chooses, list(_keys(plain, prefix, _comments(text, prefix))))


def _choice(default: Any, group: str) -> str | None:
    """What an entry of a defaults list chooses, as the command line would write it."""
    if isinstance(default, str):
        return None if default == "_self_" else f"{group}={default}"
    name, value = next(iter(default.items()))
    name = name.removeprefix("override ").lstrip("/")
    values = ",".join(value) if isinstance(value, list) else value
    return None if name.startswith("hydra") else f"{name}={values}"


def _docstring(target: str | None) -> str:
    """The first sentence of what a file builds, read from its source."""
    said = signatures.docstring(target) if target else None
    return re.split(r"(?<=\.)\s", " ".join((said or "").split()), maxsplit=1)[0]


def _comments(text: str, prefix: str) -> dict[str, str]:
    """Full key -> the comment behind it."""
    found: dict[str, str] = {}
    above: list[str] = []
    for line in text.splitlines():
        if match := _KEY.match(line):
            indent, name, _, comment = match.groups()
            above = [*above[: len(indent) // 2], name]
            found[prefix + ".".join(above)] = comment or ""
    return found


def _keys(node: Mapping[str, Any], path: str, comments: Mapping[str, str]) -> Iterator[Key]:
    target = node.get("_target_")
    hints = schema(target)[1] if target else TOP if not path else {}
    for name, value in node.items():
        full = f"{path}{name}"
        if name.startswith("_"):
            continue
        if isinstance(value, Mapping) and value:
            yield from _keys(value, f"{full}.", comments)
        else:
            takes = allowed(hints[name]) if name in hints else ""
            yield Key(full, _written(value), takes, comments.get(full, ""))


def _written(value: Any) -> str:
    """A default as YAML would have it on a command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{','.join(map(_written, value))}]"
    return "" if value == "???" else str(value)


def allowed(annotation: Any) -> str:
    """What a key of that type takes, in words: `a number >= 0.0 and <= 1.0`, `none | shuffled`, `null`."""
    origin = get_origin(annotation)
    if origin is Literal:
        return " | ".join(map(str, get_args(annotation)))
    if origin in (Union, types.UnionType):
        return " or ".join(map(allowed, get_args(annotation)))
    if hasattr(annotation, "__metadata__"):
        return f"{allowed(get_args(annotation)[0])} {bounds(annotation)}".strip()
    if origin is list:
        return "a list"
    return TYPES.get(annotation, "")
