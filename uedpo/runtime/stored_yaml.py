"""YAML files that a run or a person wrote, read within limits and without resolving anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from uedpo.errors import InputError

LIMIT = 2**20  # bytes; a configuration has about 4,000
DEPTH, NODES = 50, 100_000


def read_stored(path: Path) -> Any:
    """What a stored configuration holds, as plain lists, dicts and scalars.

    Runs store configurations resolved, so that one with ${...} was changed by hand: resolving it would bring
    values of this machine's environment into tables and cards.

    Raises:
        InputError: no YAML, beyond the limits, or with ${...} in it.
    """
    check_yaml(path)
    try:
        text = path.read_text(encoding="utf-8")
        found = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    except (OSError, ValueError, RecursionError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise InputError(f"{path}: cannot be read ({_first_line(error)}); bring the file back") from None
    if any("${" in text for text in _texts(found)):
        raise InputError(f"{path}: holds ${{...}}, which no run stores and nothing resolves; bring it back")
    return found


def read_config(path: Path) -> dict[str, Any]:
    """The stored configuration of a run.

    Raises:
        InputError: see `read_stored`; or it is no mapping.
    """
    found = read_stored(path)
    if not isinstance(found, dict):
        raise InputError(f"{path}: not a configuration, which has keys; bring the file back")
    return {str(key): value for key, value in found.items()}


def check_yaml(path: Path) -> None:
    """Whether a file is YAML of a size that a configuration may have, its anchors written out.

    Raises:
        InputError: it is not.
    """
    try:
        if path.stat().st_size > LIMIT:
            raise InputError(f"{path}: more than {LIMIT:,} bytes, which no configuration has")
        with path.open("rb") as file:
            nodes = _written_out(yaml.parse(file, Loader=yaml.SafeLoader))
    except (OSError, ValueError, yaml.YAMLError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: cannot be read ({_first_line(error)}); bring the file back") from None
    if nodes > NODES:
        raise InputError(
            f"{path}: its anchors or nesting are more than {NODES:,} values or {DEPTH} levels; write less"
        )


def _written_out(events: Any) -> int:
    """How many values a document is with its aliases written out; more than `NODES` where it is too deep."""
    sizes: dict[str, int] = {}
    open_nodes: list[tuple[str | None, int]] = []  # (anchor, values before it)
    total = 0
    for event in events:
        if isinstance(event, yaml.AliasEvent):
            total += sizes.get(event.anchor, NODES + 1)  # an alias to what is still open is without end
        elif isinstance(event, yaml.ScalarEvent):
            total += 1
            if event.anchor:
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((event.anchor, total))
            total += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_nodes.pop()
            if anchor:
                sizes[anchor] = total - before
        if total > NODES or len(open_nodes) > DEPTH:
            return NODES + 1
    return total


def _texts(node: Any) -> list[str]:
    if isinstance(node, dict):
        return [text for pair in node.items() for part in pair for text in _texts(part)]
    if isinstance(node, list):
        return [text for part in node for text in _texts(part)]
    return [node] if isinstance(node, str) else []


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
