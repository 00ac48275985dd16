"""The command line, validated before Hydra's own checks, which stop at the first unknown key."""

from __future__ import annotations

import contextlib
import difflib
import itertools
import os
import sys
from argparse import ArgumentParser
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, flag_override
from omegaconf.errors import OmegaConfBaseException

from uedpo.config.trust import trust_problems
from uedpo.config.validate import GROUPS, validate
from uedpo.errors import ConfigError, stop_on
from uedpo.runtime.redact import looks_secret
from uedpo.runtime.stored_yaml import check_yaml

PACKAGE = Path(__file__).parents[1]
PATHS = ("hydra.run.dir", "hydra.sweep.dir", "results", "feature_cache", "reference_cache")


def conf_folder() -> Path:
    """conf/ of the checkout, or the copy inside an installed package."""
    inside = PACKAGE / "conf"
    return inside if inside.is_dir() else PACKAGE.parent / "conf"


def groups() -> str:
    """Each group of conf/ with its files, a line a group."""
    names = {folder.name: sorted(p.stem for p in folder.glob("*.yaml")) for folder in conf_folder().iterdir()}
    return "\n".join(f"{group}: {', '.join(files)}" for group, files in sorted(names.items()) if files)


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
    return check_overrides(arguments.overrides, bool(arguments.multirun))


def check_overrides(overrides: list[str], multirun: bool = True) -> DictConfig:
    """Validate what the command line asks for, each combination of a sweep too, before Hydra's own checks.

    Hydra stops at the first unknown key; here keys are added by force, so that `validate` names
    all of them with the nearest one.

    Args:
        multirun: whether the command line may ask for several values: it has -m.

    Returns:
        The configuration, of a sweep that of its first trial.

    Raises:
        ConfigError: naming all problems.
    """
    parsed = parse(overrides)
    stop_on([f"{o.get_key_element()}: is empty; give a path, or leave it out" for o in parsed if _no_path(o)])
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
        with initialize_config_dir(str(conf_folder()), version_base="1.3"):
            named = {override.key_or_group for override in parsed}
            whole = compose("config", fixed, return_hydra_config=True)
            if swept and not multirun and whole.hydra.mode != RunMode.MULTIRUN:
                asked = parsed[swept[0][0]].input_line
                stop_on([f"{asked}: several values are a sweep; add -m, or give a list as KEY=[VALUE,VALUE]"])
            added = _own_sweep(whole, named, overrides)
            for override in added:
                swept.append((len(fixed), _choices(override)))
                fixed.append(swept[-1][1][0])
            first = _composed("config", fixed, overrides) if added else _checked(whole, overrides)
            if swept:
                _check_grid(fixed, swept, overrides)
            else:
                validate(first)
    except MissingConfigException as error:
        problem = missing_plugin(error.missing_cfg_file) or _no_choice(error)
        if problem is None:
            raise
        raise ConfigError(problem) from None
    return first


def parse(overrides: Sequence[str]) -> list[Override]:
    """Arguments as Hydra reads them.

    Raises:
        ConfigError: naming all that it cannot read.
    """
    found, problems = [], []
    for text in overrides:
        try:
            found += OverridesParser.create().parse_overrides([text])
        except HydraException:
            key, equals, value = text.partition("=")
            quoted = f"""'{key}="{value.strip(chr(34))}"'"""[:200]
            remedy = f"quote a value with spaces or signs, as in {quoted}" if equals else "write key=value"
            problems.append(f"{text[:200]}: cannot be read; {remedy}")
    stop_on(problems)
    return found


def _no_path(override: Override) -> bool:
    """Whether it leaves a path empty, as of a shell variable without a value: all would go to this folder."""
    return override.key_or_group in PATHS and override.value() == ""


def _no_choice(error: MissingConfigException) -> str | None:
    """One line for a group of conf/ that has no such file."""
    group, _, name = (error.missing_cfg_file or "").removesuffix(".yaml").rpartition("/")
    options = error.options or [path.stem for path in sorted((conf_folder() / group).glob("*.yaml"))]
    if not group or not options:
        return None
    close = difflib.get_close_matches(name, options, 1, cutoff=0.5)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"{group}={name}: no such choice; {hint}there are {', '.join(options)}"


def _prefix(override: Override) -> str:
    """What makes Hydra add a key by force; nothing for groups, which are chosen."""
    key = override.get_key_element()
    is_group = (conf_folder() / override.key_or_group).is_dir() or key.startswith("hydra")
    return "" if is_group or override.is_delete() else "++"


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
    return [f"{prefix}{key}={value}" for value in values]


def _check_grid(fixed: list[str], swept: list[tuple[int, list[str]]], overrides: Sequence[str]) -> None:
    """Validate every combination of swept values; seeds, which no rule connects with others, one by one.

    A combination of groups is composed; plain values are set in a copy of that, which takes a hundredth of
    the time.

    Raises:
        ConfigError: naming the problems of the first combination that has any, and the combination.
    """
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


def command_line_parser() -> ArgumentParser:
    """Hydra's parser, whose usage names what works here."""
    parser = get_args_parser()
    parser.usage = (
        "python -m uedpo.run [-h] [-m] [--cfg {job,hydra,all}] [--resolve] [--info [WHAT]]\n"
        "           [--config-dir DIR] [--config-path DIR] [--config-name NAME] [KEY=VALUE ...]"
    )
    return parser


def check_flags(arguments: Sequence[str]) -> None:
    """Refuse flags that nobody knows with the key that was meant.

    Raises:
        ConfigError: naming the flag and what to write.
    """
    known = [flag for action in get_args_parser()._actions for flag in action.option_strings]
    for at, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name in ("--shell-completion", "-sc"):
            stop_on([f"{name}: shells complete no keys here; --help lists the groups of configurations"])
        if not name.startswith("--") or any(flag.startswith(name) for flag in known):
            continue
        following = arguments[at + 1] if at + 1 < len(arguments) else ""
        value = value if equals else "VALUE" if following.startswith("-") or "=" in following else following
        key = added(name.lstrip("-").replace("-", "_"))
        stop_on([f"{argument}: keys have no dashes; write {key}={value or 'VALUE'}"])


def added(key: str) -> str:
    """A key as the command line takes it: with + for a group that no default chooses."""
    return f"+{key}" if (conf_folder() / key).is_dir() and key not in GROUPS else key


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
    for place in [folder, *([Path(more)] if more is not None else [])]:
        for depth in ("*.yaml", "*/*.yaml", "*/*/*.yaml"):  # groups, as Hydra finds them
            for file in sorted(place.glob(depth)):
                check_yaml(file)
    if more is not None:
        if any(override.lstrip("+").startswith("hydra.searchpath=") for override in overrides):
            stop_on(["hydra.searchpath: goes without --config-dir; give all folders in one of them"])
        overrides = [f"hydra.searchpath=[file://{Path(more).resolve()}]", *overrides]
    parsed = parse(overrides)
    swept = [o for o in parsed if o.is_sweep_override()]
    fixed = [o for o in overrides if o not in [s.input_line for s in swept]]
    choices = [[line.lstrip("+") if line.startswith("++") else line for line in _choices(o)] for o in swept]
    with initialize_config_dir(str(folder.resolve()), version_base="1.3"), _one_line(folder, name):
        whole = compose(name or "config", fixed, return_hydra_config=True)
        named = {override.key_or_group for override in parsed}
        choices += map(_choices, _own_sweep(whole, named, overrides))
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
        problem = missing_plugin(error.missing_cfg_file) or _no_choice(error)
        if missing == (name or "config").removesuffix(".yaml"):
            problem = f"--config-name {missing}: no such file in {folder}; name one of its .yaml files"
        raise ConfigError(problem or str(error).splitlines()[0]) from None


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


# what a missing group of configurations needs
PLUGINS = {
    "hydra/launcher/submitit": "hydra-submitit-launcher",
    "hydra/launcher/joblib": "hydra-joblib-launcher",
    "hydra/sweeper/optuna": "hydra-optuna-sweeper",
    "hydra/sweeper/sampler": "hydra-optuna-sweeper",
}


def missing_plugin(missing: str | None) -> str | None:
    """What to install where a file of conf/ that Hydra did not find belongs to a plugin."""
    for group, package in PLUGINS.items():
        if missing and missing.startswith(group):
            name, _, choice = missing.rpartition("/")
            return f"{name}={choice}: needs {package}; pip install 'uedpo[sweep]'"
    return None
