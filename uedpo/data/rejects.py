"""Rows that cannot be used: left out, counted and written down; too many of them stop the run."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from uedpo.errors import InputError

# what no ceiling excuses: it is not known which row is meant, or the set expects downloads
FATAL = ("DUPLICATE_ID", "IMAGE_URL")
SHOWN = 5


class RowProblem(Exception):
    """Why one row cannot be used: the field, a code for counting, what is wrong and the remedy."""

    def __init__(self, field: str, code: str, detail: str) -> None:
        super().__init__(field, code, detail)
        self.field, self.code, self.detail = field, code, detail

    def __str__(self) -> str:
        return f"{self.field} {self.detail} [{self.code}]"


@dataclass(frozen=True)
class Rejected:
    """A line of rejected.jsonl; `line` counts from 1 (rows where the file has no lines)."""

    row_id: str
    file: str
    line: int
    field: str
    code: str
    detail: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.field} {self.detail} [{self.code}]"


class TooManyRejected(InputError):
    """More rows are rejected than the ceiling allows; holds all of them."""

    def __init__(self, message: str, rejected: list[Rejected] | None = None) -> None:
        super().__init__(message)
        self.rejected = rejected or []


@dataclass
class Ledger:
    """What became of the rows of one file: `read` = used + rejected, always.

    Attributes:
        format: how the rows were read, in words.
        converted: how many images are not plain 8-bit RGB, by what they are.
        cut: responses of used rows that are longer than the limit, and lose their tail.
    """

    file: str
    format: str = ""
    read: int = 0
    rejected: list[Rejected] = field(default_factory=list)
    converted: Counter[str] = field(default_factory=Counter)
    cut: int = 0

    @property
    def used(self) -> int:
        return self.read - len(self.rejected)

    def reject(self, row_id: str, line: int, problem: RowProblem) -> None:
        self.rejected.append(Rejected(row_id, self.file, line, problem.field, problem.code, problem.detail))

    def settle(self, max_bad_fraction: float) -> None:
        """Stop where rejected rows are more than `max_bad_fraction` of those read, or all.

        Raises:
            TooManyRejected: with counts by code, and the first rows.
            InputError: there are no rows at all.
        """
        if not self.read:
            raise InputError(f"{self.file}: no rows; give a file with preference pairs")
        fatal = [r for r in self.rejected if r.code in FATAL]
        if fatal:
            more = f"; {len(fatal)} such rows" if len(fatal) > 1 else ""
            raise TooManyRejected(f"{fatal[0]}{more}", self.rejected)
        bad, allowed = len(self.rejected), int(max_bad_fraction * self.read)
        if bad <= allowed and self.used:
            return
        limit = (
            f"{bad} of {self.read} rows rejected, data.max_bad_fraction={max_bad_fraction:g} allows {allowed}"
        )
        if not self.used:
            limit = f"{bad} of {self.read} rows rejected, none is left"
        if bad == 1:
            raise TooManyRejected(f"{self.rejected[0]}; {limit}", self.rejected)
        read = f" ({self.format})" if self.format else ""
        lines = [
            f"{self.file}{read}: {limit}: {self._codes()}; fix them "
            "(python -m uedpo.check with the same keys writes all of them to rejected.jsonl)"
        ]
        lines += [str(r) for r in self.rejected[:SHOWN]]
        raise TooManyRejected("\n  ".join(lines), self.rejected)

    def summary(self) -> str:
        """One line: rows read = used + rejected, and what was converted or cut."""
        read = f" ({self.format})" if self.format else ""
        counts = f"{self.read} rows read = {self.used} used + {len(self.rejected)} rejected"
        parts = [f"{self.file}{read}: {counts}"]
        if self.rejected:
            parts[0] += f" ({self._codes()}; see rejected.jsonl)"
        if self.converted:
            counts = ", ".join(f"{n} {what}" for what, n in sorted(self.converted.items()))
            parts.append(f"images converted: {counts}")
        if self.cut:
            share = 100 * self.cut / max(2 * self.used, 1)
            loud = "WARNING: " if share > 5 else ""
            parts.append(f"{loud}{self.cut} responses ({share:.1f} %) cut at data.max_response_tokens")
        return "; ".join(parts)

    def _codes(self) -> str:
        return ", ".join(f"{n} {code}" for code, n in Counter(r.code for r in self.rejected).most_common())


def write_rejected(path: Path, rejected: Iterable[Rejected]) -> None:
    """One JSON object a line, {row_id, file, line, field, code, detail}."""
    lines = (json.dumps(dataclasses.asdict(r)) + "\n" for r in rejected)
    path.write_text("".join(lines), encoding="utf-8")
