"""Signatures of this package's functions and classes, read from their source instead of importing them.

Validation asks what a `_target_` takes. An import would bring in torch, Lightning and transformers first,
which takes seconds, and a mistyped key needs no more than a line of a file. Where the source alone does not
settle what a name is, the answer is None, and the caller imports it.
"""

from __future__ import annotations

import ast
import builtins
import functools
import importlib
import inspect
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

from hydra.utils import get_object

ROOT = Path(__file__).parents[1]
NAME = ROOT.name
# whose names annotations are made of; they are imported already
VOCABULARY = ("annotated_types", "collections.abc", "typing")
Definition = ast.FunctionDef | ast.ClassDef


class Signature(NamedTuple):
    """What the source says of a function or class.

    Attributes:
        home: the module that defines it, as its `__module__` would say.
        parameters: those of a call; defaults and annotations as their source text.
        hints: annotations that are made of `VOCABULARY`, builtins and constants, evaluated.
    """

    home: str
    parameters: dict[str, inspect.Parameter]
    hints: dict[str, Any]


class _Imported(NamedTuple):
    """A name bound by an import: of `name` from `module`, or of `module` itself."""

    module: str
    name: str | None


class _Unsettled(Exception):
    """The source alone does not say."""


class _Foreign(Exception):
    """Something of a library, which no value of a configuration is."""


@functools.cache
def read(target: str) -> Signature | None:
    """The signature of a dotted name; None where it is not ours, or only an import tells."""
    try:
        home, definition = _definition(*_split(target))
        home_of_call, call = _call(home, definition)
        if call is None:
            return Signature(home, {}, {})
        parameters = list(_parameters(call))[isinstance(definition, ast.ClassDef) :]
        names = {p.name for p in parameters}
        return Signature(home, {p.name: p for p in parameters}, _hints(home_of_call, call, names))
    except _Unsettled:
        return None


def docstring(target: str) -> str | None:
    """The docstring of what a dotted name defines; None where it has none, or only an import tells."""
    try:
        return ast.get_docstring(_definition(*_split(target))[1])
    except _Unsettled:
        return None


def imported(target: str) -> Signature:
    """The signature of what a dotted name is once it is imported.

    Raises:
        Exception: whatever the import raises.
    """
    found = get_object(target)
    parameters = dict(inspect.signature(found).parameters)
    try:
        hints = get_type_hints(found.__init__ if inspect.isclass(found) else found, include_extras=True)
    except (NameError, TypeError):
        hints = {}
    return Signature(found.__module__, parameters, {k: v for k, v in hints.items() if k in parameters})


def _split(target: str) -> tuple[str, str]:
    """(module, name in it) as Hydra would find them, an attribute of a package before its submodule."""
    first, *rest = target.split(".")
    if first != NAME or not rest or not all(part.isidentifier() for part in rest):
        raise _Unsettled
    module = first
    while len(rest) > 1 and rest[0] not in _names(module) and _file(f"{module}.{rest[0]}"):
        module = f"{module}.{rest.pop(0)}"
    if len(rest) > 1:
        raise _Unsettled
    return module, rest[0]


def _file(module: str) -> Path | None:
    """The source of a module of ours; None where it has none."""
    if module.partition(".")[0] != NAME:
        return None
    place = ROOT.joinpath(*module.split(".")[1:])
    files = (place / "__init__.py", place.with_name(place.name + ".py"))
    return next((file for file in files if file.is_file()), None)


@functools.cache
def _names(module: str) -> dict[str, ast.stmt | _Imported | None]:
    """Names that a module binds, and the statement that does; None where more than one or a branch may."""
    file = _file(module)
    if file is None:
        raise _Unsettled
    tree = ast.parse(file.read_text(encoding="utf-8"))
    found: dict[str, ast.stmt | _Imported | None] = {}
    for statement in tree.body:
        for name, by in _bound(statement):
            found[name] = None if name in found else by
    inner = (name for node in ast.walk(tree) if isinstance(node, ast.Global) for name in node.names)
    found.update(dict.fromkeys(inner))
    if "*" in found:
        raise _Unsettled
    return found


def _bound(statement: ast.stmt) -> Iterator[tuple[str, ast.stmt | _Imported | None]]:
    match statement:
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.Assign(targets=[ast.Name(id=name)]):
            yield name, statement
        case ast.ImportFrom(module=str(module), level=0):
            for alias in statement.names:
                whole = _file(f"{module}.{alias.name}") is not None  # a module of ours, not a part of one
                yield alias.asname or alias.name, None if whole else _Imported(module, alias.name)
        case ast.Import():
            for alias in statement.names:
                module = alias.name if alias.asname else alias.name.partition(".")[0]
                yield alias.asname or module, _Imported(module, None)
        case _:  # whatever a branch or a loop may bind
            for node in ast.walk(statement):
                match node:
                    case ast.Name(id=name, ctx=ast.Store() | ast.Del()) | ast.FunctionDef(name=name):
                        yield name, None
                    case ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                        yield name, None
                    case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)):
                        yield name, None
                    case ast.alias():
                        yield node.asname or node.name.partition(".")[0], None


def _definition(module: str, name: str) -> tuple[str, Definition]:
    """(module, definition) of a name, through what modules of ours import from each other."""
    by = _names(module).get(name)
    if isinstance(by, _Imported) and by.name is not None and by.module.partition(".")[0] == NAME:
        return _definition(by.module, by.name)
    if isinstance(by, ast.FunctionDef | ast.ClassDef) and not by.decorator_list:
        return module, by
    raise _Unsettled


def _call(module: str, definition: Definition) -> tuple[str, ast.FunctionDef | None]:
    """(module, function) that a call runs: of a class its `__init__`, or that of the one class it extends."""
    if isinstance(definition, ast.FunctionDef):
        return module, definition
    own = [pair for statement in definition.body for pair in _bound(statement)]
    made = [by for name, by in own if name == "__init__"]
    if definition.keywords or any(name == "__new__" for name, _ in own):  # a metaclass may call anything
        raise _Unsettled
    match made, definition.bases:
        case [ast.FunctionDef(decorator_list=[]) as init], _:
            return module, init
        case [], []:
            return module, None
        case [], [ast.Name(id=base)]:
            home, found = _definition(module, base)
            if isinstance(found, ast.ClassDef):
                return _call(home, found)
    raise _Unsettled


def _parameters(call: ast.FunctionDef) -> Iterator[inspect.Parameter]:
    of, kinds = call.args, inspect.Parameter
    plain = [*of.posonlyargs, *of.args]
    missing: list[ast.expr | None] = [None] * (len(plain) - len(of.defaults))
    for number, (arg, default) in enumerate(zip(plain, [*missing, *of.defaults], strict=True)):
        positional = number < len(of.posonlyargs)
        yield _parameter(arg, kinds.POSITIONAL_ONLY if positional else kinds.POSITIONAL_OR_KEYWORD, default)
    if of.vararg:
        yield _parameter(of.vararg, kinds.VAR_POSITIONAL, None)
    for arg, default in zip(of.kwonlyargs, of.kw_defaults, strict=True):
        yield _parameter(arg, kinds.KEYWORD_ONLY, default)
    if of.kwarg:
        yield _parameter(of.kwarg, kinds.VAR_KEYWORD, None)


def _parameter(arg: ast.arg, kind: Any, default: ast.expr | None) -> inspect.Parameter:
    empty = inspect.Parameter.empty
    text = empty if default is None else ast.unparse(default)
    return inspect.Parameter(
        arg.arg, kind, default=text, annotation=ast.unparse(arg.annotation) if arg.annotation else empty
    )


def _hints(module: str, call: ast.FunctionDef, names: set[str]) -> dict[str, Any]:
    hints = {}
    for node in ast.walk(call.args):
        if isinstance(node, ast.arg) and node.annotation is not None and node.arg in names:
            try:
                hints[node.arg] = _evaluated(module, node.annotation)
            except _Foreign:
                continue
    return hints


def _evaluated(module: str, expression: ast.expr) -> Any:
    """What an annotation of a module stands for."""
    used = sorted({node.id for node in ast.walk(expression) if isinstance(node, ast.Name)})
    known = {name: _value(module, name) for name in used}
    holder = types.SimpleNamespace(__annotations__={"it": ast.unparse(expression)})
    try:
        return get_type_hints(holder, known, include_extras=True)["it"]
    except Exception:
        raise _Unsettled from None


def _value(module: str, name: str) -> Any:
    """What a name of a module stands for in an annotation."""
    by = _names(module).get(name)
    match by:
        case ast.Assign(value=ast.Constant(value=value)):
            return value
        case ast.Assign(value=value):
            return _evaluated(module, value)
        case ast.ClassDef():
            raise _Foreign
        case _Imported() if by.module in VOCABULARY:
            found = importlib.import_module(by.module)
            return found if by.name is None else getattr(found, by.name)
        case _Imported(module=source, name=str(original)) if source.partition(".")[0] == NAME:
            return _value(source, original)
        case _Imported():
            raise _Foreign
    if name not in _names(module) and hasattr(builtins, name):
        return getattr(builtins, name)
    raise _Unsettled
