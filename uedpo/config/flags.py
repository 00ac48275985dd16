"""Flags of the command line: Hydra's, in the order and under the names that people write them."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence

from hydra._internal.utils import get_args_parser

from uedpo import __version__
from uedpo.config.choices import added
from uedpo.errors import stop_on


def command_line_parser() -> ArgumentParser:
    """Hydra's parser, whose usage names what works here."""
    parser = get_args_parser()
    parser.usage = (
        "python -m uedpo.run [-h] [-m] [--cfg {job,hydra,all}] [--resolve] [--info [WHAT]]\n"
        "           [--config-dir DIR] [--config-path DIR] [--config-name NAME] [KEY=VALUE ...]"
    )
    for action in parser._actions:
        if "--version" in action.option_strings:  # Hydra's own says Hydra's
            vars(action)["version"] = f"uedpo {__version__}"
    return parser


def flags_first(arguments: Sequence[str]) -> list[str]:
    """The same arguments, keys after flags: argparse takes no second group of keys, as in `a=1 -m b=2`."""
    valued = {
        flag
        for action in get_args_parser()._actions
        for flag in action.option_strings
        if action.nargs is None  # one value follows
    }
    flags: list[str] = []
    keys: list[str] = []
    for argument in arguments:
        follows = bool(flags) and flags[-1] in valued
        (flags if argument.startswith("-") or follows else keys).append(argument)
    return [*flags, *keys]


def check_flags(arguments: Sequence[str]) -> None:
    """Refuse flags that nobody knows with the key that was meant.

    Raises:
        ConfigError: naming the flag and what to write.
    """
    known = [flag for action in get_args_parser()._actions for flag in action.option_strings]
    for at, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name in ("--shell-completion", "-sc"):
            stop_on([f"{name}: completion is a command of its own: uedpo completion bash, or zsh"])
        long = name.startswith("--") and any(flag.startswith(name) for flag in known)
        if not name.startswith("-") or long or name in known:
            continue
        following = arguments[at + 1] if at + 1 < len(arguments) else ""
        value = value if equals else "VALUE" if following.startswith("-") or "=" in following else following
        key = added(name.lstrip("-").replace("-", "_"))
        stop_on([f"{argument}: keys have no dashes; write {key}={value or 'VALUE'}"])
