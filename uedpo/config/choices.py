"""Choices of groups of conf/ on the command line, and what to write instead of one that is not there."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from hydra.errors import MissingConfigException
from omegaconf import OmegaConf

from uedpo.config.validate import GROUPS

PACKAGE = Path(__file__).parents[1]
LISTS = ("callbacks", "logger")  # groups of which several files go together
# groups in whose place people give what the file of a choice takes
PLACES = {"model": "model=hf model.path", "data": "data=files data.path"}
# what a missing group of configurations needs
PLUGINS = {
    "hydra/launcher/submitit": "hydra-submitit-launcher",
    "hydra/launcher/joblib": "hydra-joblib-launcher",
    "hydra/sweeper/optuna": "hydra-optuna-sweeper",
    "hydra/sweeper/sampler": "hydra-optuna-sweeper",
}


def conf_folder() -> Path:
    """conf/ of the checkout, or the copy inside an installed package."""
    inside = PACKAGE / "conf"
    return inside if inside.is_dir() else PACKAGE.parent / "conf"


def group_names() -> list[str]:
    """The groups of conf/."""
    return sorted(folder.name for folder in conf_folder().iterdir() if choices_of(folder.name))


def groups() -> str:
    """Each group of conf/ with its files, a line a group."""
    return "\n".join(f"{group}: {', '.join(choices_of(group))}" for group in group_names())


def is_group(key: str) -> bool:
    return (conf_folder() / key).is_dir()


def added(key: str) -> str:
    """A key as the command line takes it: with + for a group that no default chooses."""
    return f"+{key}" if is_group(key) and key not in GROUPS else key


def group_problems(parsed: Sequence[Override]) -> Iterator[str]:
    """One line for each group that is chosen as Hydra does not take it, or takes it otherwise than meant."""
    chosen = {o.key_or_group: _names(o) for o in parsed if is_group(o.key_or_group) and not o.is_delete()}
    for override in parsed:
        group, line = override.key_or_group, override.input_line or ""
        if group not in chosen or isinstance(override.value(), dict):  # keys of the group, all at once
            continue
        if group not in LISTS and not all(isinstance(name, str) for name in chosen[group]):
            yield f"{line}: give the name of one file of conf/{group}/: {', '.join(choices_of(group))}"
        elif group in GROUPS and override.is_add():
            yield f"{line}: one is chosen already; write {line.lstrip('+')}"
        elif group not in GROUPS and not override.is_add():
            yield f"{line}: no default chooses a {group}; write +{line}"
    for method in chosen.get("method", []):
        for group, wanted in _overridden(str(method)).items():
            for name in chosen.get(group, [wanted]):
                if group in ("loss", "weights") and name != wanted:
                    yield (
                        f"{group}={name}: +method={method} is {group}={wanted}, and tables would call the "
                        "run by the method's name; leave one of them out"
                    )


def _names(override: Override) -> list[object]:
    """The values of a choice, several of a sweep."""
    if override.is_choice_sweep():
        return list(override.value().list)  # type: ignore[union-attr]
    return [override.value()]


def choices_of(group: str) -> list[str]:
    """The files of a group."""
    return sorted(path.stem for path in (conf_folder() / group).glob("*.yaml"))


def _overridden(method: str) -> dict[str, str]:
    """The groups that a file of conf/method/ chooses; none where there is no such file."""
    path = conf_folder() / "method" / f"{method}.yaml"
    about: Any = OmegaConf.to_container(OmegaConf.load(path)) if path.is_file() else {}
    lines = [line for line in about.get("defaults", []) if isinstance(line, dict)]
    return {str(k).removeprefix("override /"): str(v) for line in lines for k, v in line.items()}


def no_choice(error: MissingConfigException) -> str | None:
    """One line for a group of conf/ that has no such file."""
    missing = error.missing_cfg_file or ""
    group, _, name = missing.removesuffix(".yaml").rpartition("/")
    first, _, rest = missing.partition("/")
    if first in PLACES and (rest.count("/") or Path(rest).suffix):
        return f"{first}={rest}: no such choice; {PLACES[first]}={rest} takes a path"
    options = error.options or choices_of(group)
    if not group or not options:
        return None
    near = difflib.get_close_matches(name.lower(), options, 1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"{group}={name}: no such choice; {hint}there are {', '.join(options)}"


def missing_plugin(missing: str | None) -> str | None:
    """What to install where a file of conf/ that Hydra did not find belongs to a plugin."""
    for group, package in PLUGINS.items():
        if missing and missing.startswith(group):
            name, _, choice = missing.rpartition("/")
            return f"{name}={choice}: needs {package}; pip install 'uedpo[sweep]'"
    return None
