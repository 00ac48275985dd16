"""What several attacks share: a mark that no code may leave, a tiny model, and an adapter of it."""

import shutil
import sys

import pytest

from tests.reliability.harness import tiny_model_folder
from uedpo.model.hf import HFModel, lora


@pytest.fixture
def marker(tmp_path, monkeypatch):
    """A file that must not come to be; modules on the path that would make it."""
    path = tmp_path / "MARK"
    mark = f"open({str(path)!r}, 'w')\n"
    (tmp_path / "evil_module.py").write_text(f"{mark}def run(**kwargs): {mark}")
    (tmp_path / "megatron").mkdir()
    (tmp_path / "megatron" / "__init__.py").write_text(mark)
    (tmp_path / "megatron" / "core.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield path
    assert not path.exists(), "code of the attacker ran"
    assert not {"megatron", "evil_module"} & sys.modules.keys()


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A random LLaVA of some 40,000 weights, as a folder."""
    return tiny_model_folder(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def folder(model, tmp_path):
    """A copy of the model that a test may change."""
    return shutil.copytree(model, tmp_path / "copy")


@pytest.fixture(scope="session")
def trained(model, tmp_path_factory):
    """An adapter that this package saved."""
    policy, _ = HFModel(str(model), lora=lora(r=2, alpha=4.0)).load()
    where = tmp_path_factory.mktemp("adapter")
    policy.save_pretrained(where)
    return where


@pytest.fixture
def adapter(trained, tmp_path):
    """A copy of the adapter that a test may change."""
    return shutil.copytree(trained, tmp_path / "adapter")
