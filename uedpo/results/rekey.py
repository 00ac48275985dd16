"""Bring results files of an earlier version up to date: `python -m uedpo.results.rekey FILE...`.

A row is found again by a hash of its configuration. That hash used to cover the modules in which classes
lie, so a class that moved orphaned its rows. This rewrites configuration and key of each row; measurements
stay as they are. A file that is up to date is left alone.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from uedpo.errors import InputError, local_path, os_line, plain_line
from uedpo.results.keys import key_of, without_modules
from uedpo.results.store import all_rows, write_rows
from uedpo.runtime import redact
from uedpo.runtime.say import say


def rekeyed(row: dict[str, Any]) -> dict[str, Any]:
    """`row` with its configuration as this version writes it, and the key of that."""
    config = without_modules(row["config"])
    return row | {"config": config, "key": key_of(config)}


def rekey(path: Path) -> int:
    """Rewrite a results file in place; returns how many rows changed.

    Raises:
        InputError: not a results file, or it cannot be written; the file is as it was.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; give files that results= wrote")
    rows = all_rows(path)
    made = [rekeyed(row) for row in rows]
    changed = sum(json.dumps(a) != json.dumps(b) for a, b in zip(rows, made, strict=True))
    if changed:
        write_rows(path, made)
    return changed


def main() -> int:
    """Exit code 0, or 2 with one line."""
    redact.install()
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        say(__doc__)
        return 0 if arguments else 2
    try:
        for argument in arguments:
            say(f"{argument}: {rekey(local_path(argument))} rows rewritten")
    except InputError as error:
        say(plain_line(error), file=sys.stderr)
        return 2
    except OSError as error:
        say(os_line(error), file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
