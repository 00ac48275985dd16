"""The command line, validated before Hydra's own checks, which stop at the first unknown key."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra import compose
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, IntervalSweep, Override, RangeSweep
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, flag_override
from omegaconf.errors import OmegaConfBaseException

from uedpo.config.choices import (
    PACKAGE,
    added,
    conf_folder,
    group_problems,
    is_group,
    missing_plugin,
    no_choice,
)
from uedpo.config.sources import composing, searchpath_problems
from uedpo.config.trust import trust_problems
from uedpo.config.validate import validate
from uedpo.errors import ConfigError, stop_on
from uedpo.runtime.redact import looks_secret

MOST_TRIALS = 10_000  # combinations of a sweep's values, each of which is checked first
MOST_CHARACTERS = 20_000  # of one argument; Hydra's parser takes a second for as many
PATHS = ("hydra.run.dir", "hydra.sweep.dir", "results", "feature_cache", "reference_cache")


# what a command line raises that is not usable, here and in Hydra
BAD_COMMAND_LINE = (ConfigError, HydraException, OmegaConfBaseException, ValueError, AssertionError)


def check_command_line(arguments: Any) -> DictConfig:
    """Check what Hydra's parser made of `sys.argv`, before Hydra acts on it.

    Returns:
        The configuration, of a sweep that of its first trial; validated, unless it is the user's own file.

    Raises:
        ConfigError: naming all problems; or one of `BAD_COMMAND_LINE`.
    """
    check_arguments(sys.argv[1:])
    check_trusted_start(arguments.experimental_rerun)
    own = (arguments.config_path, arguments.config_name, arguments.config_dir)
    if any(own):
        return check_own_config(arguments.overrides, *own)
    cfg = check_overrides(arguments.overrides, bool(arguments.multirun))
    marked = [o for o in parse(arguments.overrides) if o.is_add() and not is_group(o.key_or_group)]
    for override in marked:  # above, keys are added by force; Hydra will not
        _check_added(override, arguments.overrides)
    return cfg


def check_overrides(overrides: list[str], multirun: bool | None = None) -> DictConfig:
    """Validate what the command line asks for, each combination of a sweep too, before Hydra's own checks.

    Hydra stops at the first unknown key; here keys are added by force, so that `validate` names
    all of them with the nearest one.

    Args:
        multirun: whether the command line has -m; None where nothing is run.

    Returns:
        The configuration, of a sweep that of its first trial.

    Raises:
        ConfigError: naming all problems.
    """
    parsed = parse(overrides)
    stop_on([line for override in parsed for line in _path_problems(override)])
    stop_on(list(searchpath_problems(parsed)))
    stop_on(list(group_problems(parsed)))
    fixed: list[str] = []
    swept: list[tuple[int, list[str]]] = []
    for override in parsed:
        if override.is_sweep_override():
            swept.append((len(fixed), _choices(override)))
            fixed.append(swept[-1][1][0])
        else:
            prefix = _prefix(override)
            line = override.input_line or ""
            fixed.append(prefix + line.lstrip("+") if prefix else line)
    try:
        with composing(conf_folder()):
            named = {override.key_or_group for override in parsed}
            whole = compose("config", fixed, return_hydra_config=True)
            if multirun is not None:
                sweeps = multirun or whole.hydra.mode == RunMode.MULTIRUN
                stop_on(list(_mode_problems(parsed, sweeps, whole)))
            more = _own_sweep(whole, named, overrides)
            for override in more:
                swept.append((len(fixed), _choices(override)))
                fixed.append(swept[-1][1][0])
            first = _composed("config", fixed, overrides) if more else _checked(whole, overrides)
            if swept:
                _check_grid(fixed, swept, overrides)
            else:
                validate(first)
    except MissingConfigException as error:
        problem = missing_plugin(error.missing_cfg_file) or no_choice(error)
        if problem is None:
            raise
        raise ConfigError(problem) from None
    return first


def _check_added(override: Override, overrides: Sequence[str]) -> None:
    """Refuse + before a key that is there."""
    others = [line for line in overrides if line != override.input_line]
    swept = [o.input_line for o in parse(others) if o.is_sweep_override()]
    with composing(conf_folder()):
        cfg = compose("config", [line for line in others if line not in swept])
    with flag_override(cfg, "struct", False):
        there = OmegaConf.select(cfg, override.key_or_group, default=cfg) is not cfg
    if there and not override.is_force_add():
        line = override.input_line or ""
        stop_on([f"{line}: the key is there already; write {line.lstrip('+')}"])


def _mode_problems(parsed: Sequence[Override], sweeps: bool, whole: DictConfig) -> Iterator[str]:
    """One line for each argument that only a sweep takes, in a single run, and the other way round."""
    given = {override.key_or_group: override for override in parsed}
    swept = [override.input_line for override in parsed if override.is_sweep_override()]
    if swept and not sweeps:
        yield f"{swept[0]}: several values are a sweep; add -m, or give a list as KEY=[VALUE,VALUE]"
    wrong, right = ("run", "sweep") if sweeps else ("sweep", "run")
    if f"hydra.{wrong}.dir" in given:
        what = "a sweep" if sweeps else "a single run"
        yield f"hydra.{wrong}.dir: {what} goes to hydra.{right}.dir; set that" + (
            "" if sweeps else ", or add -m"
        )
    if sweeps and whole.get("resume") not in (None, "auto", "required"):
        yield f"resume={whole.resume}: is of one run, not of a sweep; use resume=auto and hydra.sweep.dir=DIR"
    if sweeps and whole.hydra.launcher.get("n_jobs") == 0:
        yield "hydra.launcher.n_jobs=0: must be 1 or more, or -1 for all cores"


def parse(overrides: Sequence[str]) -> list[Override]:
    """Arguments as Hydra reads them.

    Raises:
        ConfigError: naming all that it cannot read.
    """
    found, problems = [], []
    for text in overrides:
        if len(text) > MOST_CHARACTERS:
            problems.append(f"{text[:100]}...: of {len(text):,} characters; at most {MOST_CHARACTERS:,}")
            continue
        try:
            read = OverridesParser.create().parse_overrides([text])
        except HydraException:
            problems.append(f"{text[:200]}: cannot be read; {_readable(text)}")
            continue
        problems += [line for override in read for line in _countless(override)]
        found += read
    stop_on(problems)
    return found


def _readable(text: str) -> str:
    """How to write an argument that Hydra cannot read."""
    key, equals, value = text.partition("=")
    if text.startswith("-"):
        return f"keys have no dashes; write {added(key.lstrip('-').replace('-', '_'))}={value or 'VALUE'}"
    if not equals:
        return "write key=value, with no space around =, and quotes where the value has one"
    if value.startswith(",") or value.endswith(","):
        return f"commas stand between values: {key}={value.strip(',')}"
    quoted = f"""'{key}="{value.strip(chr(34))}"'"""[:200]
    return f"quote a value with spaces or signs, as in {quoted}"


def _path_problems(override: Override) -> Iterator[str]:
    """Whether a path is empty, as of a shell variable without a value, or an address."""
    value = override.value()
    if override.key_or_group in PATHS and value == "":
        yield f"{override.get_key_element()}: is empty; give a path, or leave it out"
    if override.key_or_group in PATHS and "://" in str(value):
        yield f"{override.input_line}: is an address; give a path of this machine"


def _prefix(override: Override) -> str:
    """What makes Hydra add a key by force; nothing for groups, which are chosen."""
    key = override.get_key_element()
    whole = is_group(override.key_or_group) or key.startswith("hydra")
    return "" if whole or override.is_delete() else "++"


def _own_sweep(whole: DictConfig, named: Collection[str], overrides: Sequence[str]) -> list[Override]:
    """What a file's `hydra.sweeper.params` add to the command line `overrides`, but for keys `named` there.

    Raises:
        ConfigError: the configuration names or holds what it must not, or keys that cannot be read.
    """
    stop_on(trust_problems(whole, overrides))
    params = OmegaConf.to_container(whole.hydra.sweeper, resolve=False).get("params") or {}  # type: ignore[union-attr]
    found = parse([f"{key}={value}" for key, value in params.items()])
    return [override for override in found if override.key_or_group not in named]


def _choices(override: Override) -> list[str]:
    """An override for each value of a swept one; for an interval the two ends."""
    key = override.get_key_element()
    prefix = _prefix(override)
    key = key.lstrip("+") if prefix else key
    value = override.value()
    values = (
        [str(value.start), str(value.end)]
        if isinstance(value, IntervalSweep)
        else list(override.sweep_string_iterator())
        if override.is_sweep_override()
        else [override.get_value_element_as_str()]
    )
    twice = next((value for value, times in Counter(values).items() if times > 1), None)
    if not values or twice is not None:
        what = "has no values" if not values else f"names {twice} twice, which would train the same run twice"
        stop_on([f"{(override.input_line or '')[:200]}: {what}; give values that differ"])
    return [f"{prefix}{key}={value}" for value in values]


def _countless(override: Override) -> Iterator[str]:
    """Why the values of a sweep cannot be listed: not known, or more than any sweep has."""
    value, line = override.value(), override.input_line
    if isinstance(value, Glob):
        names = f"write the names, as `uedpo list {override.key_or_group}` has them"
        yield f"{line}: glob(...) is not read here; {names}"
    if isinstance(value, RangeSweep) and value.start is not None and value.stop is not None:
        length = (value.stop - value.start) / value.step if value.step else math.inf
        if not length <= MOST_TRIALS:  # nan too
            yield f"{line}: more than {MOST_TRIALS:,} values; give fewer"


def _check_number(choices: Sequence[Sequence[str]]) -> None:
    """Refuse a sweep of more trials than anybody runs, which would take minutes to check alone."""
    number = math.prod(map(len, choices))
    if number > MOST_TRIALS:
        stop_on([f"the sweep: its values have {number:,} combinations; at most {MOST_TRIALS:,}, so split it"])


def _check_grid(fixed: list[str], swept: list[tuple[int, list[str]]], overrides: Sequence[str]) -> None:
    """Validate every combination of swept values; seeds, which no rule connects with others, one by one.

    A combination of groups is composed; plain values are set in a copy of that, which takes a hundredth of
    the time.

    Raises:
        ConfigError: naming the problems of the first combination that has any, and the combination.
    """
    _check_number([choices for _, choices in swept])
    seeds = [s for s in swept if s[1][0].partition("=")[0].rsplit(".", 1)[-1].lstrip("+") == "seed"]
    others = [s for s in swept if s not in seeds]
    groups = [s for s in others if not s[1][0].startswith("++")]
    plain = [s for s in others if s not in groups]
    for chosen in itertools.product(*(choices for _, choices in groups)):
        lines = list(fixed)
        for (at, _), line in zip(groups, chosen, strict=True):
            lines[at] = line
        cfg = _composed("config", lines, overrides)
        first = all(line == choices[0] for line, (_, choices) in zip(chosen, groups, strict=True))
        singly = [(line,) for _, choices in seeds for line in choices[1:]] if first else []
        for values in [*itertools.product(*(choices for _, choices in plain)), *singly]:
            try:
                _validate_with(cfg, values, overrides)
            except ConfigError as error:
                pairs = [line.lstrip("+").partition("=")[::2] for line in [*chosen, *values]]
                trial = " ".join(f"{k}={'...' if looks_secret(k, v) else v}" for k, v in pairs)
                raise ConfigError(f"{error}\n  in the trial {trial}" if trial else str(error)) from None


def _validate_with(cfg: DictConfig, values: Sequence[str], overrides: Sequence[str]) -> None:
    changed = cfg.copy()
    with flag_override(changed, ["struct", "readonly"], [False, False]):
        for override in OverridesParser.create().parse_overrides([line.lstrip("+") for line in values]):
            OmegaConf.update(changed, str(override.key_or_group), override.value(), force_add=True)
    stop_on(trust_problems(changed, overrides))
    validate(changed)


def check_own_config(
    overrides: list[str], path: str | None, name: str | None, more: str | None
) -> DictConfig:
    """Check what a configuration of the user's names, before Hydra acts on it; `run` validates the rest.

    Args:
        path, name, more: --config-path, --config-name and --config-dir.

    Returns:
        The configuration, of a sweep that of its first trial.

    Raises:
        ConfigError: naming all problems.
    """
    if path and path.startswith("pkg://"):
        stop_on([f"--config-path {path}: would import a package; give a folder"])
    folder = conf_folder() if path is None else PACKAGE / path  # as Hydra reads a relative one
    given = {"--config-path": path and folder, "--config-dir": more and Path(more)}
    stop_on(
        [f"{flag} {at}: no such folder; give one" for flag, at in given.items() if at and not at.is_dir()]
    )
    if more is not None:
        if any(override.lstrip("+").startswith("hydra.searchpath=") for override in overrides):
            stop_on(["hydra.searchpath: goes without --config-dir; give all folders in one of them"])
        overrides = [f"hydra.searchpath=[file://{Path(more).resolve()}]", *overrides]
    parsed = parse(overrides)
    stop_on(list(searchpath_problems(parsed)))
    swept = [o for o in parsed if o.is_sweep_override()]
    fixed = [o for o in overrides if o not in [s.input_line for s in swept]]
    choices = [[line.lstrip("+") if line.startswith("++") else line for line in _choices(o)] for o in swept]
    with composing(folder.resolve()), _one_line(folder, name):
        whole = compose(name or "config", fixed, return_hydra_config=True)
        named = {override.key_or_group for override in parsed}
        choices += map(_choices, _own_sweep(whole, named, overrides))
        _check_number(choices)
        firsts = [values[0] for values in choices]
        first = _composed(name or "config", [*fixed, *firsts], overrides)
        for at, values in enumerate(choices):
            for choice in values[1:]:
                _composed(name or "config", [*fixed, *firsts[:at], choice, *firsts[at + 1 :]], overrides)
    return first


@contextlib.contextmanager
def _one_line(folder: Path, name: str | None) -> Iterator[None]:
    """Say what is missing from the user's own folders in one line."""
    try:
        yield
    except MissingConfigException as error:
        missing = (error.missing_cfg_file or "").removesuffix(".yaml")
        problem = missing_plugin(error.missing_cfg_file) or no_choice(error)
        if missing == (name or "config").removesuffix(".yaml"):
            problem = f"--config-name {missing}: no such file in {folder}; name one of its .yaml files"
        raise ConfigError(problem or str(error).splitlines()[0]) from None
    except yaml.YAMLError as error:  # a key that is there twice
        raise ConfigError(" ".join(str(error).split())[:400]) from None


def check_arguments(arguments: Sequence[str]) -> None:
    """Refuse secrets on the command line, which Hydra and loggers store as it is.

    Raises:
        ConfigError: naming the keys, never the values.
    """
    stop_on([
        f"argument {number} ({key}): looks like a secret; give it by an environment variable, never as "
        "an argument"
        for number, argument in enumerate(arguments, start=1)
        for key, _, value in [argument.lstrip("+~-").rpartition("=")]
        if looks_secret(key, value)
    ])  # fmt: skip


def check_trusted_start(rerun: str | None) -> None:
    """Refuse what makes Hydra or torch unpickle files.

    Raises:
        ConfigError: naming the argument or variable.
    """
    if rerun is not None:
        stop_on(["--experimental-rerun: reads a pickle, which can run code; use --config-path of a run"])
    if os.environ.get("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "0").lower() not in ("", "0", "false", "n", "no"):
        stop_on(["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD: makes checkpoints run code; unset it"])


def _composed(name: str, lines: list[str], overrides: Sequence[str]) -> DictConfig:
    """The configuration without `hydra`, which is looked at too.

    Raises:
        ConfigError: it names or holds what it must not.
    """
    return _checked(compose(name, lines, return_hydra_config=True), overrides)


def _checked(whole: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """`whole` without `hydra`; raises as `_composed` does."""
    stop_on(trust_problems(whole, overrides))
    with flag_override(whole, ["struct", "readonly"], [False, False]):
        del whole["hydra"]
    return whole
