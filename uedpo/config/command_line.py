"""Command lines that take a configuration and keys of their own: `uedpo.explain`, `uedpo.plan`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from hydra.errors import HydraException, InstantiationException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from uedpo.config.choices import added
from uedpo.config.overrides import check_arguments, check_overrides, check_trusted_start, parse
from uedpo.errors import ConfigError, InputError, os_line, plain_line, stop_on
from uedpo.runtime import redact
from uedpo.runtime.say import say


def answer(doc: str | None, work: Callable[[list[str]], str]) -> int:
    """Print what `work` makes of the command line; returns 0, or 2 after a line on what cannot be used."""
    redact.install()
    arguments = sys.argv[1:]
    if any(a in ("-h", "--help") for a in arguments):
        say(doc)
        return 0
    try:
        text = work(arguments)
    except (ConfigError, InputError, HydraException, OmegaConfBaseException) as error:
        cause = error.__cause__ if isinstance(error, InstantiationException) else None
        say(plain_line(cause or error), file=sys.stderr)
        return 2
    except OSError as error:
        say(os_line(error), file=sys.stderr)
        return 2
    say(text)
    return 0


def split(arguments: Sequence[str], keys: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """(values of the keys in `keys`, overrides of the configuration); texts are taken as they are.

    Raises:
        ConfigError: naming all problems.
    """
    own: dict[str, str] = {}
    overrides, problems = [], []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if key in keys and equals:
            if key in own:
                problems.append(f"{key}: given twice; keep one")
            own[key] = value
        elif argument.startswith("--"):
            key = key.lstrip("-").replace("-", "_")
            problems.append(f"{argument}: keys have no dashes; write {added(key)}={value or 'VALUE'}")
        elif argument.startswith("-") or (not equals and not argument.startswith("~")):
            problems.append(f"{argument}: write key=value")
        else:
            overrides.append(argument)
    stop_on(problems)
    check_arguments(arguments)
    return own, overrides


def compose(overrides: Sequence[str] = ()) -> DictConfig:
    """The configuration that `overrides` ask for, checked as `python -m uedpo.run` checks its command line.

    Args:
        overrides: as on the command line: "model=llava15_7b", "optim.lr=0.00001", "+method=dpo".

    Raises:
        ConfigError: naming all problems; several values for a key are one.
    """
    if isinstance(overrides, str) or not all(isinstance(o, str) for o in overrides):
        raise ConfigError(f"compose({overrides!r}): give a list of texts, as in ['+method=dpo', 'seed=1']")
    check_arguments(overrides)
    check_trusted_start(None)
    swept = [o for o in parse(overrides) if o.is_sweep_override()]
    stop_on([f"{o.get_key_element()}: one value, no sweep" for o in swept])
    return check_overrides(list(overrides))
