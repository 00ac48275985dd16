"""Files of judge replies: one line an attempt, several lines of one index being successive ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from uedpo.errors import InputError
from uedpo.evaluation.append_file import REPLIES
from uedpo.evaluation.endpoint import OK, WRONG_MODEL, Outcome
from uedpo.evaluation.judge_tasks import Task
from uedpo.evaluation.questions import field, json_lines


def recorded(path: Path, judge: str) -> dict[int, list[Outcome]]:
    """Attempts by row of a file of recorded replies: ours, or lines {"index", "reply"}.

    Raises:
        InputError: naming file, line and field.
    """
    found: dict[int, list[Outcome]] = {}
    for where, row in json_lines(path):
        if isinstance(row, dict) and REPLIES in row:
            continue
        index = field(where, row, "index", int)
        if row.get("reply") is None and isinstance(row.get("status"), str):
            found.setdefault(index, []).append(Outcome(row["status"], None, row.get("model"), row.get("raw")))
            continue
        if not isinstance(row.get("reply"), str):
            raise InputError(f"{where}: reply must be a text")
        model = row.get("model") or judge
        status = OK if model == judge else WRONG_MODEL
        reply, raw = (row["reply"], None) if status == OK else (None, row["reply"])
        found.setdefault(index, []).append(Outcome(status, reply, model, raw))
    return found


def judged(
    path: Path, rows: Sequence[tuple[int, dict[str, Any]]], asked: Sequence[Task]
) -> tuple[set[int], Counter[int]]:
    """(rows that have their reply, attempts of each) in a reply file.

    Raises:
        InputError: naming file, line and field.
    """
    indices = {task.row for task in asked}
    done: set[int] = set()
    attempts: Counter[int] = Counter()
    for number, row in rows:
        where = f"{path}:{number}"
        index = field(where, row, "index", int)
        if index not in indices:
            raise InputError(f"{where}: index={index} is no row that is judged")
        if index in done:
            raise InputError(f"{where}: index={index} has its reply above; remove the line")
        attempts[index] += 1
        if field(where, row, "status", str) == OK:
            field(where, row, "reply", str)
            done.add(index)
    return done, attempts
