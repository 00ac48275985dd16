"""What finished runs measured, whether they left a directory or a row in a results file."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from uedpo.errors import ANOTHER_FOLDER, InputError
from uedpo.results.keys import BASE, key_of, trial_config
from uedpo.results.metrics import Metric, defaults, known_mode
from uedpo.results.store import OWN_ROWS, read_rows
from uedpo.runtime.atomic import replace, write_json
from uedpo.runtime.lock import sign
from uedpo.runtime.small_json import read_object
from uedpo.runtime.stored_yaml import read_config

BROKEN = (
    OSError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError, csv.Error,
    OmegaConfBaseException,
)  # fmt: skip
ENVIRONMENT = "environment.json"  # in the directory of a run: written when all that it measured is there
COMMAND = "command.json"  # in the directory of a run: the overrides of the command that it was started with


@dataclass
class Run:
    """One finished run.

    `values` are its metrics: "split/name" of the evaluation, and columns of metrics.csv, the last value of
    each; `base` those of the untrained model. `config` is what determines the run. `overrides` of the
    command line are None, and `row` is, where nothing recorded them.
    """

    where: str
    config: dict[str, Any]
    values: dict[str, float]
    base: dict[str, float] = field(default_factory=dict)
    overrides: list[str] | None = None
    row: dict[str, Any] | None = None

    @property
    def seed(self) -> Any:
        return self.config.get("seed")


def accept(cfg: DictConfig, folder: Path, overrides: Sequence[str] | None) -> None:
    """Write what is asked for into a folder that this process holds; before, nothing in it changes."""
    sign(folder)
    text = OmegaConf.to_yaml(cfg, resolve=True)
    replace(folder / "config.yaml", lambda file: file.write(text.encode()))
    if overrides is None:
        (folder / COMMAND).unlink(missing_ok=True)
    else:
        write_json(folder / COMMAND, {"overrides": list(overrides)})


def finished(folder: Path) -> str | None:
    """Key of the trial that was trained and measured in `folder`; None where there is none.

    "" where nobody can read it, and where metrics.json is of another program.
    """
    stopped = (folder / "config.yaml").is_file() and not (folder / ENVIRONMENT).is_file()
    if stopped or not (folder / "metrics.json").is_file():
        return None
    try:
        return str(read_object(folder / ENVIRONMENT)["setting"])
    except BROKEN:
        return ""


def check_free(folder: Path, key: str) -> None:
    """Refuse a folder with a finished run, or with another trial's row of a results file.

    Args:
        key: of the trial that is to be written there.

    Raises:
        InputError: another folder is needed.
    """
    own = read_rows(folder / OWN_ROWS)
    if finished(folder) is not None or (own and key not in own):
        raise InputError(f"{folder}: holds a finished run; {ANOTHER_FOLDER}")


def read_run(folder: Path, overrides: list[str] | None = None) -> Run | None:
    """The run in `folder`; None where it has not finished.

    Raises:
        InputError: a file of it that cannot be read.
    """
    if not (folder / "metrics.json").is_file() or not (folder / "config.yaml").is_file():
        return None
    try:
        config = trial_config(OmegaConf.create(read_config(folder / "config.yaml")))
        metrics = read_object(folder / "metrics.json")
        after = dict(_leaves(metrics["after"] or {}))
        base = dict(_leaves(metrics["before"] or {}))
        row = read_rows(folder / OWN_ROWS).get(key_of(config))
        if overrides is None and (folder / COMMAND).is_file():
            overrides = [str(o) for o in read_object(folder / COMMAND)["overrides"]]
        values = _last(folder / "metrics.csv") | after
    except BROKEN as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{folder}: not a whole run ({reason}); remove it") from None
    return Run(str(folder), config, values, base, overrides, row)


def runs_of(path: Path) -> list[Run]:
    """Finished runs of a results file, a run's directory, or any directory above some, in order.

    The untrained model, where a results file has it, is a run without overrides and without a seed.

    Raises:
        InputError: no such path, nothing finished in it, or what cannot be read.
    """
    if path.is_file():
        found = [_of_row(path, row) for row in read_rows(path).values()]
    elif path.is_dir():
        folders = sorted({p.parent for p in path.rglob("metrics.json")}, key=_natural)
        found = [run for folder in folders if (run := read_run(folder)) is not None]
    else:
        raise InputError(f"{path}: no such file or directory; give results files and directories of runs")
    if not found:
        raise InputError(f"{path}: no finished run in it")
    return found


def choose_metric(runs: Sequence[Run], name: str | None, mode: str | None, split: str = "shift") -> Metric:
    """The metric of that name, or the first of `DEFAULTS` that all `runs` have.

    Raises:
        InputError: no run has it, or nobody says whether it should be small or large.
    """
    if name is None:
        names = defaults(split)
        name = next((n for n in names if all(n in run.values for run in runs)), None)
        if name is None:
            raise InputError(f"metric: the runs share none of {', '.join(names)}; set metric and mode")
    if not any(name in run.values for run in runs):
        known = sorted({n for run in runs for n in run.values})
        raise InputError(f"metric={name}: no finished run has it; they have {', '.join(known) or 'none'}")
    mode = mode or known_mode(name)
    if mode is None:
        raise InputError(f"metric={name}: nobody knows which is better; add mode=min or mode=max")
    return Metric(name, mode)


def objective(folder: Path, name: str | None, mode: str | None) -> float | None:
    """The metric of one finished run, for sweepers that search; None where it has none.

    Raises:
        InputError: see `choose_metric`.
    """
    run = read_run(folder)
    if run is None:
        return None
    if name is None and not any(n in run.values for n in defaults("shift")):
        return None
    value = run.values[choose_metric([run], name, mode).name]
    return value if math.isfinite(value) else None


def _of_row(path: Path, row: dict[str, Any]) -> Run:
    return Run(f"{path}: {row['key']}", row["config"], dict(_leaves(row["metrics"])), row=row)


def is_base(run: Run) -> bool:
    """Whether this is the evaluation of the untrained model."""
    return run.config.get("method") == BASE


def _leaves(node: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """(name, number) of every metric: a number, or a node with a `value`, nan where it is 0 / 0."""
    if isinstance(node, Mapping):
        if "value" in node:
            yield path, math.nan if node["value"] is None else float(node["value"])
        else:
            for key, value in node.items():
                yield from _leaves(value, f"{path}/{key}".lstrip("/"))
    elif isinstance(node, (int, float)) and not isinstance(node, bool):
        yield path, float(node)


def _last(path: Path) -> dict[str, float]:
    """The last value of every column."""
    if not path.is_file():
        return {}
    last: dict[str, float] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            last |= {k: float(v) for k, v in row.items() if k and v and k != "step"}
    return last


def _natural(path: Path) -> list[Any]:
    """So that trial 10 comes after trial 9."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in path.parts]
