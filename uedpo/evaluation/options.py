"""`key=value` command lines of the evaluation stages: a function's signature is their schema.

The stages read files and write files; they compose no configuration, so Hydra has no part in them.
"""

from __future__ import annotations

import difflib
import inspect
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from uedpo.errors import ConfigError, InputError, os_line
from uedpo.runtime import redact
from uedpo.runtime.say import say


def parse(function: Callable[..., int], arguments: Sequence[str], bare: str | None = None) -> dict[str, Any]:
    """Values for the parameters of `function` from `key=value` arguments, "null" being None.

    Args:
        bare: the parameter that takes the arguments without "=", a list; None where there is none.

    Raises:
        ConfigError: naming every unknown, repeated, missing or ill-typed key.
    """
    parameters = inspect.signature(function).parameters
    hints = get_type_hints(function, include_extras=True)
    values: dict[str, Any] = {bare: []} if bare else {}
    problems = []
    for argument in arguments:
        key, equals, text = argument.partition("=")
        if bare and (not equals or key not in parameters):
            values[bare].append(argument)
        elif not equals:
            problems.append(f"{argument}: write key=value")
        elif key not in parameters:
            close = difflib.get_close_matches(key, parameters, 1, cutoff=0.5)
            hint = f"did you mean {close[0]}?" if close else f"allowed: {', '.join(parameters)}"
            problems.append(f"{key}: unknown key; {hint}")
        elif key in values:
            problems.append(f"{key}: given twice; keep one")
        else:
            values[key] = None
            if not text.strip():
                problems.append(f"{key}: is empty; give a value, or leave it out")
                continue
            try:
                values[key] = _value(hints[key], text)
            except ValidationError as error:
                wanted = dict.fromkeys(_wanted(e["msg"]) for e in error.errors())
                problems.append(f"{key}={text!r}: must be {' or '.join(wanted)}")
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in values:
            problems.append(f"{name}: missing; set it with {name}=VALUE")
    if problems:
        raise ConfigError("; ".join(problems))
    return values


def _wanted(message: str) -> str:
    """What pydantic asks for."""
    wanted = message.removeprefix("Input should be ")
    return "true or false" if wanted.startswith("a valid boolean") else wanted


def _value(annotation: Any, text: str) -> Any:
    adapter: TypeAdapter[Any] = TypeAdapter(annotation, config=ConfigDict(allow_inf_nan=False))
    if text == "null":
        return adapter.validate_python(None)
    return adapter.validate_python(text)  # lax: "16" is a number where a number is asked for


def command(function: Callable[..., int], bare: str | None = None) -> NoReturn:
    """Run `function` on the command line: its exit code, or 2 with one line for bad input."""
    redact.install()
    arguments = sys.argv[1:]
    module = sys.modules[function.__module__]
    if not arguments or arguments[0] in ("-h", "--help"):
        say(f"{module.__doc__}\n{usage(function)}")
        sys.exit(0 if arguments else 2)
    try:
        code = function(**parse(function, arguments, bare))
    except (ConfigError, InputError) as error:
        say(error, file=sys.stderr)
        code = 2
    except OSError as error:  # a path that cannot be made, read or written
        say(os_line(error), file=sys.stderr)
        code = 2
    except (KeyboardInterrupt, EOFError):
        say("stopped; run the same command again to go on", file=sys.stderr)
        code = 130
    sys.exit(code)


def usage(function: Callable[..., int]) -> str:
    """One line a parameter: name, default, allowed."""
    lines = []
    for name, parameter in inspect.signature(function).parameters.items():
        default = "required" if parameter.default is parameter.empty else f"default {parameter.default}"
        lines.append(f"  {name:16}{default:30}{parameter.annotation}")
    return "\n".join(lines)
