"""A full disk is one line wherever it is met; other threads and replaced folders are told."""

import errno
import os

import pytest

import uedpo.experiment
import uedpo.logger.csv
import uedpo.results.runs
import uedpo.runtime.lock
from tests.reliability.harness import command, finish, start, tiny_model_folder
from tests.unit.test_images import encoded, noise
from uedpo.data.images import check_image, find_image, load_image
from uedpo.data.rejects import RowProblem


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model_folder(tmp_path_factory.mktemp("model"))


def full(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def of(owner, name, when=lambda *a: True):
    """Plants a full disk in the calls of a function that `when` holds for."""

    def plant():
        real = getattr(owner, name)
        setattr(owner, name, lambda *a, **k: full() if when(*a) else real(*a, **k))

    return plant


def of_weights():
    """As safetensors says it."""
    import safetensors.torch
    from safetensors import SafetensorError

    def fails(*args, **kwargs):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    import peft.peft_model

    safetensors.torch.save_file = peft.peft_model.safe_save_file = fails


PLACES = {
    "run.lock": of(uedpo.runtime.lock.json, "dump", lambda value, file: "host" in value),
    "config.yaml": of(uedpo.results.runs, "replace", lambda *a: a[0].name == "config.yaml"),
    "command.json": of(uedpo.results.runs, "write_json"),
    "manifest": of(uedpo.callbacks.checkpoint_files, "replace", lambda *a: a[0].suffix == ".json"),
    "metrics.json": of(uedpo.experiment, "write_json"),
    "adapter": of_weights,
    "metrics.csv": of(uedpo.logger.csv.MetricsCSV, "log_metrics"),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.cases(1)
def test_a_full_disk_is_one_line(model, tmp_path, place):
    run = start(command(tmp_path / "run", model, steps=4), tmp_path / "log", fault=PLACES[place])
    assert run.wait() == 2, run.text()[-2000:]
    assert "Traceback" not in run.text()
    assert "o space left on device" in run.text()
    assert "then run the same command again" in run.text()
    finish([*command(tmp_path / "run", model, steps=4), "resume=auto"], tmp_path / "log2")


@pytest.mark.slow
def test_another_number_of_threads_is_said(model, tmp_path):
    whole = command(tmp_path / "run", model, steps=4)
    finish(whole, tmp_path / "log")
    more = [a for a in whole if not a.startswith(("trainer.max_steps", "threads="))]
    again = [*more, "trainer.max_steps=4", "threads=2", "resume=auto"]
    run = finish(again, tmp_path / "log2")
    assert "resumed with 2 threads, begun with 1" in run.text()
    assert "set threads=1" in run.text()
    same = finish([*whole, "resume=auto"], tmp_path / "log3")
    assert "bits may differ" not in same.text()


def test_a_folder_of_images_replaced_by_a_link_is_refused(tmp_path):
    for place in ("root/deep", "elsewhere/deep"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "a.png").write_bytes(encoded(noise(), "PNG"))
    path = find_image((tmp_path / "root").resolve(), "deep/a.png")
    check_image(path)
    for folder in ("root/deep", "root"):
        (tmp_path / folder).rename(tmp_path / "moved")
        os.symlink(tmp_path / "elsewhere" / ("deep" if "/" in folder else ""), tmp_path / folder)
        for call in (check_image, load_image):
            with pytest.raises(RowProblem, match="became a link"):
                call(path)
        (tmp_path / folder).unlink()
        (tmp_path / "moved").rename(tmp_path / folder)
    load_image(path)
    kept = path.rename(tmp_path / "kept")
    path.mkdir()
    with pytest.raises(RowProblem, match="no regular file"):
        load_image(path)
    path.rmdir()
    os.symlink("b.png", path)
    os.symlink(kept, path.with_name("b.png"))  # a chain
    with pytest.raises(RowProblem, match="became a link"):
        load_image(path)
