"""What one call of `score` has and lacks. A lack makes every metric null unless a subset is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from uedpo.errors import InputError
from uedpo.evaluation.official.answers import Answers
from uedpo.evaluation.official.assets import KNOWN
from uedpo.evaluation.official.outcome import MissingAsset, Mode, Undefined
from uedpo.evaluation.official.reading import Sources, parse


class Incomplete(Exception):
    """Something is missing; `Run.reasons` says what."""


@dataclass
class Run:
    """Files of one call, and what was found out on the way.

    Attributes:
        assets: the folder, for pope the label file.
        recordings: option -> file, for those that were given.
        inputs, sources: hashes of answers and replies, and of assets and recordings.
        counts, versions, reasons, warnings: go to the report; a reason makes every metric null.
        partial: whether a subset is scored.
    """

    answers: Answers
    assets: Path
    recordings: dict[str, Path] = field(default_factory=dict)
    mode: Mode = "official"
    allow_partial: bool = False
    inputs: Sources = field(default_factory=Sources)
    sources: Sources = field(default_factory=Sources)
    counts: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    partial: bool = False

    def require(self, *names: str) -> None:
        """Check files of the asset folder.

        Raises:
            MissingAsset: naming all that are not there.
        """
        missing = [name for name in names if not (self.assets / name).is_file()]
        self.counts["missing_assets"] = len(missing)
        if missing:
            raise MissingAsset(f"{self.assets}: no {', '.join(missing)}")

    def read(self, name: str = "") -> str:
        """Text of a file of the asset folder, or of the one asset file."""
        path = self.assets / name if name else self.assets
        text = self.sources.read(path)
        known = KNOWN.get(path.name)
        if known not in (None, self.sources.sha256[path.name]):
            self.warnings.append(f"{path.name} is not the published file (sha256 {known})")
        return text

    def recorded(self, option: str) -> tuple[Any, str]:
        """Parsed JSON of a recording, and its file name."""
        path = self.recordings[option]
        return parse(self.sources.read(path), str(path)), path.name

    def note_missing(self, what: str, num: int, remedy: str) -> None:
        """Count what is missing: a subset where that is allowed, else the end of the metrics."""
        self.counts[f"missing_{what}"] = num
        if not num:
            return
        text = f"{num} {what.replace('_', ' ')} missing"
        if self.allow_partial:
            self.partial = True
            self.warnings.append(f"{text}: a subset is scored")
        else:
            self.reasons.append(f"{text}; {remedy}, or allow_partial=true for the others alone")

    def note_odd(self, name: str, where: Sequence[str], text: str) -> None:
        """What the official script does not look at: counted there, refused by `strict`.

        Args:
            where: each occurrence, as file:line or file[index].
        """
        if not where:
            return
        self.counts[name] = len(where)
        if self.mode == "strict":
            raise InputError(f"{where[0]}: {text}; mode=official does as the script does")
        self.warnings.append(f"{len(where)} times: {text} (first: {where[0]})")

    def stop_if_incomplete(self, num_scored: int) -> None:
        """Call before scoring.

        Raises:
            Incomplete: something is missing.
            Undefined: there is nothing to score.
        """
        self.counts["scored"] = 0 if self.reasons else num_scored
        if self.reasons:
            raise Incomplete
        if not num_scored:
            raise Undefined("nothing to score")


@contextmanager
def located(where: Sequence[str]) -> Iterator[None]:
    """Put file and line before what a scorer finds undefined in one row."""
    try:
        yield
    except Undefined as error:
        if error.row is None:
            raise
        raise Undefined(f"{where[error.row]}: {error}") from None
