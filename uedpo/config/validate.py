"""All configuration errors at once, before weights load.

The signature of each `_target_` is its schema: parameter names, types and ranges (`uedpo.types`).
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import inspect
import math
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ConfigDict, TypeAdapter, ValidationError

from uedpo.config import signatures
from uedpo.config.rules import cross_rules
from uedpo.config.trust import trust_problems
from uedpo.errors import stop_on
from uedpo.loss import ON_REQUEST
from uedpo.types import NonNegativeInt, PositiveFloat, PositiveInt, Seed

GROUPS = (
    "model",
    "data",
    "loss",
    "weights",
    "corruption",
    "optim",
    "trainer",
    "callbacks",
    "logger",
    "evaluation",
)
TOP: dict[str, Any] = {
    "name": str,
    "method": str | None,
    "seed": Seed,
    "global_batch": int | None,
    "resume": Annotated[str | None, "auto, required, or the path of a checkpoint"],
    "threads": PositiveInt | None,
    "timeout": PositiveFloat | None,
    "scoring": Literal["prefix_shared", "plain"],
    "results": str | None,
    "feature_cache": str | None,
    "reference_cache": str | None,
    "metric": str | None,
    "mode": Literal["min", "max"] | None,
    "allow_packages": list[str],
    "report_pairs": NonNegativeInt,
}
# parameters that `run` supplies, where a target of the group has them
SUPPLIED = {
    "data": {"processor", "seed"},
    "trainer": {"callbacks", "logger", "default_root_dir", "plugins", "timeout"},
    "weights": {"seed", "corruption"},
    "corruption": {"seed"},
    "optim": {"params", "max_steps"},
    "loss": {"policy_logps", "reference_logps", "mask", "weights", *ON_REQUEST},
    "logger.": {"save_dir"},
}


NODES = ("lora", "train", "val")  # parameters that take an object, built from a node


def validate(cfg: DictConfig) -> None:
    """Check every key, type, range and cross rule of a composed config.

    Raises:
        ConfigError: naming all problems, each with the key, the value, what is allowed, the remedy.
    """
    stop_on(list(_problems(cfg)))


def _problems(cfg: DictConfig) -> Iterator[str]:
    refused = trust_problems(cfg)
    if refused:  # the checks below import targets and quote values
        yield from refused
        return
    values: dict[str, Any] = {}
    yield from _plain(cfg, "", values)
    yield from _unknown("", [k for k in values], [*TOP, *GROUPS], functools.partial(_holders, values))
    for key, annotation in TOP.items():
        if key not in values:
            yield f"{key}: missing; set it with {key}=VALUE"
        elif not isinstance(values[key], _Broken):
            yield from _value(key, values[key], annotation)
    for group in GROUPS:
        if group not in values:
            yield f"{group}: missing; choose one of conf/{group}/"
        elif isinstance(values[group], Mapping):
            yield from _node(group, values[group])
        elif not isinstance(values[group], _Broken):
            yield f"{group}={values[group]!r}: must be the name of a file of conf/{group}/"
    yield from cross_rules(values, lambda target: schema(target)[0])


class _Broken:
    """A value that is missing or does not resolve; already reported."""

    def __repr__(self) -> str:
        return "(missing)"


def _plain(node: DictConfig, path: str, into: dict[str, Any]) -> Iterator[str]:
    """Fill `into` with resolved plain values; yield what cannot be."""
    for raw in node:
        key = str(raw)
        full = f"{path}{key}"
        into[key] = _Broken()
        if OmegaConf.is_missing(node, key):
            yield f"{full}: missing; set it with {full}=VALUE"
            continue
        try:
            value = node[key]
        except OmegaConfBaseException as error:
            yield f"{full}: does not resolve ({str(error).splitlines()[0]})"
            continue
        if isinstance(value, DictConfig):
            into[key] = {}
            yield from _plain(value, full + ".", into[key])
        else:
            into[key] = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def _node(path: str, node: Mapping[str, Any]) -> Iterator[str]:
    """Check a node that has a `_target_`, or a folder of such nodes (callbacks, logger)."""
    if "_target_" not in node:
        if node and path not in ("callbacks", "evaluation", "logger", "weights"):
            yield f"{path}: has no _target_"
        for key, value in node.items():
            if path == "evaluation":
                yield f"{path}.{key}: evaluation=none measures nothing; leave this key out, or choose another"
            elif isinstance(value, Mapping):
                yield from _node(f"{path}.{key}", value)
            elif path == "weights":
                yield f"{path}.{key}: unknown key; weights=uniform has none, add weights=uncertainty"
            elif not isinstance(value, _Broken) and value is not None:
                yield f"{path}.{key}={value!r}: must be a node with a _target_, or null"
        return
    target = node["_target_"]
    try:
        parameters, hints = schema(target)
    except Exception as error:
        yield f"{path}._target_={target!r}: cannot be imported ({str(error).splitlines()[0]})"
        return
    given = {k: v for k, v in node.items() if k not in ("_target_", "_partial_", "_recursive_", "_convert_")}
    supplied = SUPPLIED.get("logger." if path.startswith("logger.") else path, set())
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        yield from _unknown(f"{path}.", list(given), [n for n in parameters if n not in supplied])
    for name, parameter in parameters.items():
        required = parameter.default is parameter.empty and parameter.kind not in (
            parameter.VAR_KEYWORD,
            parameter.VAR_POSITIONAL,
        )
        if required and name not in given and name not in supplied:
            yield f"{path}.{name}: missing; set it with {path}.{name}=VALUE"
    for name, value in given.items():
        if isinstance(value, Mapping) and "_target_" in value:
            yield from _node(f"{path}.{name}", value)
        elif name not in hints and name in NODES and not isinstance(value, Mapping | _Broken | None):
            yield f"{path}.{name}={value!r}: must be a node with a _target_, or null"
        elif name in parameters and name in hints and not isinstance(value, _Broken):
            yield from _value(f"{path}.{name}", value, hints[name])
        else:
            yield from _not_finite(f"{path}.{name}", value)


@functools.cache
def schema(target: str) -> tuple[dict[str, inspect.Parameter], dict[str, Any]]:
    """(parameters, types that a value of YAML can satisfy) of what a `_target_` names."""
    found = signatures.read(target) or signatures.imported(target)
    return found.parameters, {k: v for k, v in found.hints.items() if _is_checkable(v)}


def _is_checkable(annotation: Any) -> bool:
    """Whether all of an annotation is made of plain scalars, so that a YAML value can satisfy it."""
    origin = get_origin(annotation)
    if origin is Literal:
        return True
    if origin in (Union, types.UnionType):
        return all(_is_checkable(a) for a in get_args(annotation))
    if hasattr(annotation, "__metadata__"):
        return _is_checkable(get_args(annotation)[0])
    return annotation in (int, float, str, bool, type(None))


def _value(path: str, value: Any, annotation: Any) -> Iterator[str]:
    if value == "" and get_origin(annotation) is not Literal:
        yield f"{path}: is empty; give a value, or leave it out"
        return
    adapter: TypeAdapter[Any] = TypeAdapter(annotation, config=ConfigDict(strict=True, allow_inf_nan=False))
    try:
        adapter.validate_python(value)
    except ValidationError as error:
        wanted = " or ".join(dict.fromkeys(e["msg"].removeprefix("Input should be ") for e in error.errors()))
        wanted = wanted.replace("a valid boolean", "true or false")
        extra = "; macOS runs on cpu, mps has no tests here" if value == "mps" else ""
        yield f"{path}={value!r}: must be {wanted}{_range(annotation)}{extra}"


def _not_finite(path: str, value: Any) -> Iterator[str]:
    """Numbers at any depth of what no type describes."""
    if isinstance(value, float) and not math.isfinite(value):
        yield f"{path}={value}: must be a finite number"
    items = (
        value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, item in items:
        yield from _not_finite(f"{path}.{key}", item)


def bounds(annotation: Any) -> str:
    """The range of an annotated number in words, as in "> 0 and <= 0.5"; empty where it has none."""
    parts = []
    for item in getattr(annotation, "__metadata__", ()):
        for sign, bound in ((">", "gt"), (">=", "ge"), ("<", "lt"), ("<=", "le")):
            if getattr(item, bound, None) is not None:
                parts.append(f"{sign} {getattr(item, bound)}")
    return " and ".join(parts)


def _range(annotation: Any) -> str:
    """The whole range of an annotated number, in words, and the reason where the annotation names one."""
    allowed = bounds(annotation)
    reasons = [item for item in getattr(annotation, "__metadata__", ()) if isinstance(item, str)]
    return (f" (allowed: {allowed})" if allowed else "") + "".join(f"; {r}" for r in reasons)


def _holders(values: Mapping[str, Any], key: str, path: str = "") -> Iterator[str]:
    """Where among the groups a key stands that was written without its group: lr -> optim.lr."""
    if "_target_" in values:
        with contextlib.suppress(Exception):  # of a target that cannot be imported; said elsewhere
            if key in set(schema(values["_target_"])[0]) - SUPPLIED.get(path, set()):
                yield f"{path}.{key}"
    for name, value in values.items():
        if isinstance(value, Mapping) and (path or name in GROUPS):
            yield from _holders(value, key, f"{path}.{name}".lstrip("."))


def _unknown(
    path: str,
    given: list[str],
    allowed: list[str],
    deeper: Callable[[str], Iterator[str]] = lambda _: iter(()),
) -> Iterator[str]:
    for key in given:
        if key not in allowed:
            close = difflib.get_close_matches(key, allowed, 1)
            near = [*deeper(key)] or [f"{path}{name}" for name in close]
            hint = f"did you mean {' or '.join(near)}?" if near else f"allowed: {', '.join(allowed)}"
            yield f"{path}{key}: unknown key; {hint}"
