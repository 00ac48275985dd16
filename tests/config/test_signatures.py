"""What is read of a signature from source is what an import would tell, or nothing."""

import importlib
import inspect
import re
from pathlib import Path

import pytest

import uedpo
from uedpo.config import signatures
from uedpo.config.overrides import conf_folder
from uedpo.config.trust import OWN, _below, target_problem
from uedpo.config.validate import _is_checkable

PACKAGE = Path(uedpo.__file__).parent
MODULES = sorted(
    ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    for file in PACKAGE.rglob("*.py")
    if file != PACKAGE / "__init__.py" and "assets" not in file.parts
)
TARGETS = sorted(
    {
        target
        for file in conf_folder().rglob("*.yaml")
        for target in re.findall(r"_target_: *(uedpo\.\S+)", file.read_text())
    }
)


def said(signature):
    """What validation asks of a signature."""
    kept = {name: hint for name, hint in signature.hints.items() if _is_checkable(hint)}
    given = {n: (p.kind, p.default is not p.empty) for n, p in signature.parameters.items()}
    return signature.home, given, kept


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_of_conf_is_read_without_an_import(target):
    assert said(signatures.read(target)) == said(signatures.imported(target))


def test_there_are_targets_to_compare():
    assert len(TARGETS) > 30


@pytest.mark.parametrize("name", MODULES)
def test_every_name_of_every_module_is_what_the_source_says(name):
    module = importlib.import_module(name)
    for own, found in vars(module).items():
        read = signatures.read(f"{name}.{own}")
        if read is None:
            continue
        assert callable(found), own
        assert read.home == found.__module__, own
        if not own.startswith("_"):
            assert said(read) == said(signatures.imported(f"{name}.{own}")), own


def test_what_is_allowed_is_what_an_import_would_allow():
    for name in MODULES:
        for own, found in vars(importlib.import_module(name)).items():
            target = f"{name}.{own}"
            if callable(found) and not inspect.ismodule(found) and target_problem(target) is None:
                assert _below(name, OWN), target
                assert _below(found.__module__, OWN) or inspect.isclass(found), target


def test_most_that_may_be_named_is_read():
    read, others = [], []
    for name in (n for n in MODULES if _below(n, OWN)):
        for own, found in vars(importlib.import_module(name)).items():
            if getattr(found, "__module__", None) == name and callable(found) and not own.startswith("_"):
                (read if signatures.read(f"{name}.{own}") else others).append(f"{name}.{own}")
    assert len(read) > 5 * len(others), others


SOURCE = """
from __future__ import annotations
import os
import typing as t
from typing import Annotated, Literal
from annotated_types import Ge
from torch import Tensor
from uedpo.parts import other as renamed, Base
from uedpo import parts

WHY = "below there is nothing"
Kind = Literal["a", "b"]
Count = Annotated[int, Ge(0), WHY]
alias = len

def plain(a, /, b: Count, *c, kind: Kind | None = None, image: Tensor, tensors: list[int] = [], **d): ...
def long(a: t.Literal["x"] = "x"): ...
def quoted(a: "int", b: "Nowhere"): ...
def unknown(a: Nowhere): ...

@os.path.join
def decorated(a): ...

if os.name:
    def branched(a): ...

def twice(a): ...
def twice(b): ...
def replaced(a): ...
replaced = os.system
def changed(a): ...
def changes():
    global changed
    changed = os.system
def looped(a): ...
for looped in (os.system,): pass
def caught(a): ...
try: pass
except OSError as caught: pass

class Plain: ...
class Own(Base):
    def __init__(self, a: int): ...
class Inherits(Base): ...
class Meta(metaclass=type): ...
class New:
    def __new__(cls, a): ...
class Foreign(os.PathLike): ...
class Handmade:
    __init__ = os.system
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of the name of ours, of which nothing is imported."""
    root = tmp_path / "uedpo"
    (root / "inner").mkdir(parents=True)
    (root / "__init__.py").write_text("")
    (root / "odd.py").write_text(SOURCE)
    (root / "parts.py").write_text("def other(x: int): ...\nclass Base:\n    def __init__(self, y=1): ...\n")
    (root / "star.py").write_text("from os import *\ndef own(a): ...\n")
    (root / "inner" / "__init__.py").write_text("from os import system as shadowed\n")
    (root / "inner" / "shadowed.py").write_text("def own(a): ...\n")
    (root / "inner" / "clear.py").write_text("def own(a): ...\n")
    caches = (signatures.read, signatures._names)
    monkeypatch.setattr(signatures, "ROOT", root)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


def test_kinds_defaults_and_hints(package):
    read = signatures.read("uedpo.odd.plain")
    kinds = ["POSITIONAL_ONLY", "POSITIONAL_OR_KEYWORD", "VAR_POSITIONAL"]
    kinds += ["KEYWORD_ONLY", "KEYWORD_ONLY", "KEYWORD_ONLY", "VAR_KEYWORD"]
    assert [p.kind.name for p in read.parameters.values()] == kinds
    given = [n for n, p in read.parameters.items() if p.default is not p.empty]
    assert given == ["kind", "tensors"]
    assert set(read.hints) == {"b", "kind", "tensors"}
    assert read.hints["b"].__metadata__[1] == "below there is nothing"
    assert _is_checkable(read.hints["b"])
    assert _is_checkable(read.hints["kind"])
    assert not _is_checkable(read.hints["tensors"])
    assert _is_checkable(signatures.read("uedpo.odd.long").hints["a"])


def test_names_are_followed_to_where_they_are_defined(package):
    assert signatures.read("uedpo.odd.renamed").home == "uedpo.parts"
    assert list(signatures.read("uedpo.odd.Inherits").parameters) == ["y"]
    assert list(signatures.read("uedpo.odd.Own").parameters) == ["a"]
    assert signatures.read("uedpo.odd.Plain").parameters == {}
    assert list(signatures.read("uedpo.inner.clear.own").parameters) == ["a"]


@pytest.mark.parametrize(
    "name",
    [
        "os", "os.system", "alias", "WHY", "Tensor", "nothing", "quoted", "unknown", "decorated", "branched",
        "twice", "replaced", "changed", "looped", "caught", "Meta", "New", "Foreign", "Handmade",
        "Plain.__init__", "plain.__globals__", "renamed.x", "", "plain.", "parts",
        "parts.other",
    ],
)  # fmt: skip
def test_what_the_source_does_not_settle_is_left_to_an_import(package, name):
    assert signatures.read(f"uedpo.odd.{name}") is None


@pytest.mark.parametrize(
    "target",
    ["uedpo", "uedpo.odd", "uedpo.star.own", "uedpo.inner.shadowed.own", "uedpo.inner", "os.system", "",
     "uedpo..odd.plain", "uedpo.../odd.plain", "uedpo.nowhere.plain", "other.odd.plain"],
)  # fmt: skip
def test_other_names_are_left_to_an_import(package, target):
    assert signatures.read(target) is None
