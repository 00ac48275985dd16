"""The command line, validated before Hydra's own checks, which stop at the first unknown key."""

from __future__ import annotations

from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

from uedpo.validate import validate


def conf_folder() -> Path:
    """conf/ of the checkout, or the copy inside an installed package."""
    package = Path(__file__).parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def check_overrides(overrides: list[str]) -> None:
    """Validate what the command line asks for, each value of a sweep too, before Hydra's own checks.

    Hydra stops at the first unknown key; here keys are added by force, so that `validate` names
    all of them with the nearest one.

    Raises:
        ConfigError: naming all problems.
    """
    parsed = OverridesParser.create().parse_overrides(overrides)
    fixed: list[str] = []
    swept: list[tuple[int, list[str]]] = []
    for override in parsed:
        key = override.get_key_element()
        is_group = (conf_folder() / override.key_or_group).is_dir() or key.startswith("hydra")
        prefix = "" if is_group or override.is_delete() else "++"
        if override.is_sweep_override():
            choices = [f"{prefix}{key}={value}" for value in override.sweep_string_iterator()]
            swept.append((len(fixed), choices))
            fixed.append(choices[0])
        else:
            line = override.input_line or ""
            fixed.append(prefix + line.lstrip("+") if prefix else line)
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        named = {override.key_or_group for override in parsed}
        whole = compose("config", fixed, return_hydra_config=True)
        for key, values in (whole.hydra.sweeper.params or {}).items():  # the experiment's own sweep
            if key.lstrip("+") not in named:
                choices = [f"{key}={value.strip()}" for value in str(values).split(",")]
                swept.append((len(fixed), choices))
                fixed.append(choices[0])
        validate(compose("config", fixed))
        for at, choices in swept:
            for choice in choices[1:]:
                validate(compose("config", [*fixed[:at], choice, *fixed[at + 1 :]]))
