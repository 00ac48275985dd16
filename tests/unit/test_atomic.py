"""Folders and files of weights: modes by the umask, and nothing lost where there is no room."""

import errno
import os

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from uedpo.errors import InputError, out_of_memory
from uedpo.runtime.atomic import replace, whole_folder


@pytest.fixture(params=[0o022, 0o027, 0o077])
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_weights_get_the_modes_of_the_umask(tmp_path, umask):
    with whole_folder(tmp_path / "model") as place:
        (place / "inside").mkdir()
        save_file({"a": torch.zeros(2)}, place / "inside/a.safetensors")
        save_file({"a": torch.zeros(2)}, place / "a.safetensors")
    files = [f for f in (tmp_path / "model").rglob("*") if f.is_file()]
    assert {f.stat().st_mode & 0o777 for f in files} == {0o666 & ~umask}
    assert sorted(f.name for f in files) == ["a.safetensors", "a.safetensors"]


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), PermissionError(errno.EACCES, "Permission denied"),
     SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")],
)  # fmt: skip
def test_what_was_there_before_a_failed_write_is_intact(tmp_path, error):
    with whole_folder(tmp_path / "model") as place:
        (place / "weights").write_text("old")

    def fail():
        with whole_folder(tmp_path / "model", anew=True) as place:
            (place / "weights").write_text("half")
            raise error

    with pytest.raises(InputError, match=r"model: cannot be written \(.*\); \d+ MB are free there"):
        fail()
    assert (tmp_path / "model/weights").read_text() == "old"
    assert [f.name for f in tmp_path.iterdir()] == ["model"]


def test_a_folder_that_cannot_be_swapped_in_leaves_the_old_one(tmp_path, monkeypatch):
    with whole_folder(tmp_path / "model") as place:
        (place / "weights").write_text("old")
    rename = os.rename

    def failing(a, b):
        if str(a).endswith("tmp"):
            raise OSError(errno.ENOSPC, "No space left on device")
        rename(a, b)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(InputError), whole_folder(tmp_path / "model", anew=True) as place:
        (place / "weights").write_text("new")
    assert (tmp_path / "model/weights").read_text() == "old"


def test_a_folder_is_replaced_whole(tmp_path):
    for text, name in (("old", "one"), ("new", "two")):
        with whole_folder(tmp_path / "model", anew=True) as place:
            (place / name).write_text(text)
    assert [f.name for f in (tmp_path / "model").iterdir()] == ["two"]
    assert [f.name for f in tmp_path.iterdir()] == ["model"]


def test_a_file_in_a_folder_that_is_gone_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"cannot be written \(No such file"):
        replace(tmp_path / "no/such/file", lambda file: None)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."), MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you "
                     "tried to allocate 40 bytes. Error code 12 (Cannot allocate memory)"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)  # fmt: skip
def test_memory_that_is_used_up_is_known_as_such(error):
    assert out_of_memory(error)
    assert not out_of_memory(ValueError("no such file"))


def test_torch_itself_is_understood_where_a_machine_has_no_memory_left():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55, dtype=torch.uint8)
    assert out_of_memory(caught.value)
