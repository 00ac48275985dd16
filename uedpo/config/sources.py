"""What Hydra reads while it composes: each file is looked at before Hydra acts on it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.override_parser.types import Override
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import OmegaConf

from uedpo.config.choices import conf_folder
from uedpo.errors import stop_on
from uedpo.runtime.stored_yaml import check_yaml

_RESOLVED = re.compile(r"\$\{[^}]*:")


@contextlib.contextmanager
def composing(folder: Path) -> Iterator[None]:
    """Let `hydra.compose` read `folder`, and check every file that it comes to.

    Hydra imports the packages of a search path and resolves a defaults list before it returns a
    configuration, so that looking at the result would be too late.

    Raises:
        InputError: a file that is no YAML, or beyond the limits of `check_yaml`.
        ConfigError: a file that would import a package, or whose defaults ask for more than names.
    """
    with initialize_config_dir(str(folder), version_base="1.3"):
        # the class that Hydra found in its scan of plugins, which loads the module a second time
        files: Any = SourcesRegistry.instance().resolve("file")
        real = files.load_config

        def load(source: ConfigSource, config_path: str) -> ConfigResult:
            file = Path(source.path, source._normalize_file_name(config_path))
            if file.is_relative_to(conf_folder()):
                return real(source, config_path)  # type: ignore[no-any-return]
            if file.exists():
                check_yaml(file)
            found: ConfigResult = real(source, config_path)
            stop_on([*_searched(found), *_defaults(file, found)])
            return found

        files.load_config = load
        try:
            yield
        finally:
            files.load_config = real


def searchpath_problems(overrides: Sequence[Override]) -> Iterator[str]:
    """One line for each `hydra.searchpath` of the command line that leads to more than folders."""
    for override in overrides:
        if override.key_or_group == "hydra.searchpath":
            yield from _places(override.value())


def _searched(found: ConfigResult) -> Iterator[str]:
    if OmegaConf.is_dict(found.config):
        yield from _places(OmegaConf.select(found.config, "hydra.searchpath"))


def _places(places: Any) -> Iterator[str]:
    for place in places or []:
        scheme, address, _ = str(place).partition("://")
        if "${" in str(place) or (address and scheme != "file"):
            yield f"hydra.searchpath: {scheme}:// would import a package; give a folder with file://"


def _defaults(file: Path, found: ConfigResult) -> Iterator[str]:
    raw = OmegaConf.to_container(found.config, resolve=False)
    if isinstance(raw, dict) and _RESOLVED.search(str(raw.get("defaults"))):
        yield f"{file}: its defaults hold ${{...:...}}, which is not resolved here; name the file"
