"""Table, best run and plots of any finished runs: `python -m uedpo.compare PATH...`.

PATH is a results file, the directory of a run or of a sweep, or one above them. Parameters and seeds are
found in what the runs differ in. With --against, differences on the same scenes and seeds too, with
paired-bootstrap intervals. The text is printed; --out OUT writes it to OUT.md too, with plots beside it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from uedpo.errors import InputError, os_line, plain_line
from uedpo.report.differences import differences_table, forest_plot
from uedpo.report.plots import write_plots
from uedpo.report.summary import best_text, scenes_text, table
from uedpo.results.keys import BASE, key_of
from uedpo.results.metrics import SPLITS
from uedpo.results.paired import differences
from uedpo.results.runs import Run, choose_metric, is_base, runs_of
from uedpo.results.settings import Name, Settings, base_of, columns, parameters, settings, value
from uedpo.runtime import redact
from uedpo.runtime.say import say
from uedpo.sweep import journal
from uedpo.sweep.summary import failures


def compare(
    paths: Sequence[Path],
    out: Path | None = None,
    by: Sequence[str] | None = None,
    against: Name | None = None,
    where: Sequence[str] = (),
    metric: str | None = None,
    mode: str | None = None,
    split: str = "shift",
) -> str:
    """The text; where `out` is given, it is written to `out`.md, with plots beside it.

    Raises:
        InputError: no runs, runs that do not compare, or a reference that is not there.
    """
    if out is not None and not out.parent.is_dir():
        raise InputError(f"--out {out}: no such folder as {out.parent}; make it, or name another")
    unequal = [condition for condition in where if "=" not in condition]
    if unequal:
        raise InputError(f"--where {unequal[0]}: write KEY=VALUE, as method=DPO or weights.alpha=0.3")
    found = [run for path in paths for run in runs_of(path)]
    known = {key_of(run.config): run for run in reversed(found)}  # of two the first
    runs = [run for run in reversed(known.values()) if _chosen(run, where)]
    trained = [run for run in runs if not is_base(run)]
    if not trained:
        condition = f" with {' and '.join(where)}" if where else ""
        raise InputError(f"{', '.join(map(str, paths))}: no trained run{condition}")
    by = parameters(trained) if by is None else by
    unknown = [key for key in by if not any(value(run, key) for run in trained)]
    if unknown:
        raise InputError(
            f"--by {unknown[0]}: no run has this key; give method, or keys of config.yaml as weights.alpha"
        )
    groups = settings(trained, by)
    chosen = choose_metric(trained, metric, mode, split)
    names = columns(trained, chosen, split)
    base = base_of(runs)
    second = _against(groups, by, against, runs, split, out) if against else ""
    parts = [part for path in paths if (part := _failed(path))]
    text = f"Mean and 95 % t interval over seeds{scenes_text(trained, split)}.\n\n"
    text += f"{table(groups, by, names, base)}\n{best_text(groups, by, chosen)}"
    if against:
        text += f"\n{second}"
    text += "".join(f"\n{part}" for part in parts)
    if out is not None:
        plots = write_plots(groups, by, chosen, names, base, out)
        plots += [out.with_name(f"{out.name}_differences.png")] * bool(against)
        pictures = "".join(f"![{path.stem}]({path.name})\n" for path in plots)
        out.with_name(f"{out.name}.md").write_text(f"{text}\n{pictures}", encoding="utf-8")
    return text


def _against(
    groups: Settings,
    by: Sequence[str],
    against: Name,
    runs: Sequence[Run],
    split: str,
    out: Path | None,
) -> str:
    """The table of differences; writes their plot where there is an `out`."""
    base = [run for run in runs if is_base(run)]
    whole = {(BASE, *[""] * (len(by) - 1)): base} if base and by else {}
    whole |= groups
    uncounted = [r.where for g in whole.values() for r in g if r.row is None or split not in r.row["counts"]]
    if uncounted:
        raise InputError(
            f"--against: {uncounted[0]} has no counts of each scene, which pairs need; compare results files"
        )
    found = differences(whole, against, split)
    reference = ", ".join(against)
    if out is not None:
        forest_plot(found, out.with_name(f"{out.name}_differences.png"), reference)
    return (
        f"Difference from {reference} in percentage points, 95 % paired bootstrap interval over scenes "
        f"and seeds; bold where it leaves 0 out.\n\n{differences_table(found, by)}"
    )


def _failed(path: Path) -> str:
    """What a sweep's journal says of trials that did not finish."""
    if not (path / journal.NAME).is_file():
        return ""
    sweep = journal.read(path)
    return failures(path, sweep, [t for t in sweep.trials.values() if t.state != "finished"])


def _chosen(run: Run, where: Sequence[str]) -> bool:
    """Whether a run has all the values; the untrained model need not have the keys."""
    for condition in where:
        key, _, wanted = condition.partition("=")
        found = value(run, key)
        if found != wanted and not (is_base(run) and found in ("", BASE)):
            return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m uedpo.compare",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("paths", type=Path, nargs="+", metavar="PATH")
    parser.add_argument("--by", help="keys that tell settings apart, comma-separated; default: found")
    parser.add_argument("--against", nargs="+", metavar="VALUE", help="reference: values of the first keys")
    parser.add_argument("--where", action="append", default=[], metavar="KEY=VALUE", help="only such runs")
    parser.add_argument("--metric", help="that ranks settings, as shift/chair_i or val/loss; default: found")
    parser.add_argument("--mode", choices=["min", "max"], help="which is better; default: known for ours")
    parser.add_argument("--split", default="shift", choices=list(SPLITS), help="of the evaluation")
    parser.add_argument("--out", type=Path, help="OUT.md and plots to write; default: none")
    redact.install()
    options = parser.parse_args()
    by = [key for key in options.by.split(",") if key] if options.by else None
    try:
        say(
            compare(
                options.paths, options.out, by, tuple(options.against or ()) or None, options.where,
                options.metric, options.mode, options.split,
            )
        )  # fmt: skip
    except InputError as error:
        say(plain_line(error), file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        say(os_line(error), file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
