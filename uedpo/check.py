"""Look at the data before any weights load: `python -m uedpo.check [+experiment=...] [key=value ...]`.

Composes and validates like `uedpo.run`, reads and rejects rows like it, and puts every row through the
collator. Prints lengths, cuts, images and rejected rows; writes check.html and rejected.jsonl to
outputs/NAME. Exit code 0: fine; 2: bad configuration or input.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig

from uedpo.config.effective import effective_lines
from uedpo.config.flags import check_flags, command_line_parser, flags_first
from uedpo.config.overrides import BAD_COMMAND_LINE, check_command_line
from uedpo.config.validate import validate
from uedpo.data.rejects import TooManyRejected, write_rejected
from uedpo.errors import ConfigError, InputError, os_line, plain_line
from uedpo.runtime import redact
from uedpo.runtime.folders import make
from uedpo.runtime.hub import check_present
from uedpo.runtime.progress import late_bar
from uedpo.runtime.quiet import quiet
from uedpo.runtime.say import say

if TYPE_CHECKING:
    from uedpo.data.collate import PairCollator
    from uedpo.data.survey import Measured
    from uedpo.types import PreferencePair

SHOWN = 6  # rows on the page
BOUNDARIES = 2  # rows whose tokens are printed where the response begins
NAMED = 10  # problems that are printed


def check(cfg: DictConfig, folder: Path) -> int:
    """Read, measure and show the data of a config; returns the exit code.

    Raises:
        InputError: model or data cannot be used at all.
    """
    from uedpo.corruption.base import check_corruption
    from uedpo.data.rows import CheckedPairs
    from uedpo.data.spans import check_weights_are_read
    from uedpo.data.survey import survey
    from uedpo.model.families import family_of
    from uedpo.scoring import Scorer

    if (folder / "config.yaml").is_file():
        raise InputError(f"{folder}: is the directory of a run; set another name=")
    quiet()
    source = instantiate(cfg.model)
    processor, config = source.processor(), source.config()
    source.check(processor, config)
    Scorer(cfg.scoring).check(config, source.attn_implementation)
    check_corruption(instantiate(cfg.corruption, seed=cfg.seed), config.model_type, family_of(config))
    say("\n".join(effective_lines(cfg, config)))
    data = instantiate(cfg.data)(processor=processor, seed=cfg.seed)
    make(folder)
    data.report(folder)
    asked = list(inspect.signature(get_object(cfg.loss._target_)).parameters)
    check_weights_are_read(data.train, asked, "_target_" in cfg.weights)
    problems, tables = [], {}
    with late_bar("rows", len(data.train) + len(data.val)) as advance:
        for name, part in (("train", data.train), ("val", data.val)):
            rows = survey(part, data.collate, config, num_workers=data.num_workers, advance=advance)
            problems += [row.problem for row in rows if row.problem]
            tables[name] = table(name, rows, data.collate.max_response_tokens)
    for lines in tables.values():
        say("\n".join(lines))
    for problem in problems[:NAMED]:
        say(problem, file=sys.stderr)
    if problems:
        say(f"{len(problems)} rows would stop a run; leave them out", file=sys.stderr)
    pairs = [data.train[i] for i in range(len(data.train)) if i < SHOWN]
    _show_boundaries(data.collate, pairs, problems)
    from uedpo.report.check_page import write_check_page

    ledgers = [part.ledger for part in (data.train, data.val) if isinstance(part, CheckedPairs)]
    page = write_check_page(folder, cfg, processor, pairs, data.collate, tables, ledgers, problems)
    say(f"open {page}")
    return 2 if problems else 0


def _show_boundaries(collate: PairCollator, pairs: Sequence[PreferencePair], problems: Sequence[str]) -> None:
    """Print where the responses of the first rows begin; raises InputError where the template differs."""
    from uedpo.data.boundary import boundary_lines, check_rows

    fine = [pair for pair in pairs if not any(p.startswith(f"row {pair.id}:") for p in problems)]
    for pair in fine[:BOUNDARIES]:
        say("\n".join(boundary_lines(collate, pair)))
    check_rows(collate, fine[:BOUNDARIES])


def table(name: str, rows: Sequence[Measured], limit: int) -> list[str]:
    """Lines about one part of the data."""
    from uedpo.data.survey import QUANTILES, images_a_row, quantiles

    fine = [row for row in rows if not row.problem]
    images = ", ".join(f"{n} in {rows} rows" for n, rows in images_a_row(rows).items())
    lines = [f"{name}: {len(rows)} rows; images a row: {images or 'none measured'}"]
    if fine:
        heads = ["least", *(f"{100 * q:g} %" for q in QUANTILES[1:-1]), "most"]
        lines.append(f"  {'tokens':<10}" + "".join(f"{head:>8}" for head in heads))
        for what in fine[0].lengths:
            values = quantiles([row.lengths[what] for row in fine])
            lines.append(f"  {what:<10}" + "".join(f"{value:>8}" for value in values))
        cut = sum(row.cut for row in fine)
        share = f"{100 * cut / (2 * len(fine)):.1f} %"
        lines.append(f"  cut at data.max_response_tokens={limit}: {cut} responses ({share}), their tail only")
        seen = sum(bool(row.images) for row in fine)
        lines.append(f"  image placeholders: as many rows have them as have images ({seen})")
    bad = len(rows) - len(fine)
    return lines if not bad else [*lines, f"  {bad} rows cannot be collated"]


def main() -> None:
    """Entry point."""
    redact.install()
    if {"-h", "--help"} & set(sys.argv[1:]):
        say(__doc__)
        sys.exit(0)
    try:
        check_flags(sys.argv[1:])
        sys.argv[1:] = flags_first(sys.argv[1:])
        arguments = command_line_parser().parse_args()
        cfg = check_command_line(arguments)
        validate(cfg)
    except BAD_COMMAND_LINE as error:
        sys.exit(_said(error))
    folder = Path("outputs") / cfg.name
    try:
        check_present(cfg.model.get("path"), cfg.model.get("revision"))
        sys.exit(check(cfg, folder))
    except InstantiationException as error:
        if not isinstance(error.__cause__, (ValueError, ImportError, OSError)):
            raise
        sys.exit(_said(error.__cause__, folder))
    except (ConfigError, InputError) as error:
        sys.exit(_said(error, folder))
    except OSError as error:  # a folder that cannot be made or written
        say(os_line(error), file=sys.stderr)
        sys.exit(2)


def _said(error: BaseException, folder: Path | None = None) -> int:
    if isinstance(error, TooManyRejected) and folder is not None:
        make(folder)
        write_rejected(folder / "rejected.jsonl", error.rejected)
        say(f"all of them: {folder}/rejected.jsonl", file=sys.stderr)
    say(plain_line(error), file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
