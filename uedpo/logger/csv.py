"""metrics.csv, whose rows a resumed run continues."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only

from uedpo.errors import InputError
from uedpo.runtime.atomic import replace


class MetricsCSV(Logger):
    """One row per logged step in `save_dir`/metrics.csv, written as it comes; columns in order of name.

    A run starts the file anew, unless `keep` says how many of its rows to continue from.
    """

    def __init__(self, save_dir: str) -> None:
        super().__init__()
        self.path = Path(save_dir) / "metrics.csv"
        self.columns: list[str] = []
        self.rows = 0
        self._file: TextIO | None = None

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self.path.parent)

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """The configuration is in config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        row = {**metrics, "step": step}
        new = row.keys() - set(self.columns)
        if self._file is None or new:
            self._rewrite(self._read(self.rows), sorted({*self.columns, *new}))
        assert self._file is not None
        self._file.write(_line(self.columns, row))
        self._file.flush()
        self.rows += 1

    def keep(self, rows: int) -> list[dict[str, str]]:
        """Continue after the first so many rows of the file, and return them; later ones will come again.

        Raises:
            InputError: the file has fewer.
        """
        found = self._read(rows)
        if len(found) < rows:
            raise InputError(
                f"{self.path}: {len(found)} rows, the checkpoint was saved after {rows}; bring the file "
                "back, or continue in another folder with resume=PATH"
            )
        columns = sorted({key for row in found for key, value in row.items() if value})
        self._rewrite(found, columns)
        self.rows = rows
        return found

    def sync(self) -> int:
        """Bring all rows to the disk; returns how many there are."""
        if self._file is not None:
            os.fsync(self._file.fileno())
        return self.rows

    def _read(self, rows: int) -> list[dict[str, str]]:
        if not rows or not self.path.is_file():
            return []
        text = self.path.read_text()
        whole = text[: text.rfind("\n") + 1]  # a killed run may have left half a line
        return list(csv.DictReader(io.StringIO(whole)))[:rows]

    def _rewrite(self, rows: list[dict[str, str]], columns: list[str]) -> None:
        if self._file is not None:
            self._file.close()
        text = _line(columns, dict(zip(columns, columns, strict=True))) if columns else ""
        text += "".join(_line(columns, row) for row in rows)
        replace(self.path, lambda file: file.write(text.encode()))
        self.columns = columns
        self._file = self.path.open("a", newline="")


def _line(columns: list[str], row: Mapping[str, Any]) -> str:
    out = io.StringIO()
    csv.DictWriter(out, columns, lineterminator="\n").writerow({k: row.get(k, "") for k in columns})
    return out.getvalue()
