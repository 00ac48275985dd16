"""uedpo.runtime.progress: bars of long steps."""

import pytest
from pytorch_lightning.callbacks import RichProgressBar

from uedpo.callbacks.progress import Bar
from uedpo.runtime import progress


@pytest.mark.parametrize(("looked_at", "want"), [(True, [3.5]), (False, [])])
@pytest.mark.parametrize("total", [3, None])
def test_a_bar_appears_after_three_seconds_on_a_terminal(monkeypatch, looked_at, want, total):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    started = []
    monkeypatch.setattr("rich.progress.Progress.start", lambda self: started.append(now[0]))
    monkeypatch.setattr(progress, "interactive", lambda: looked_at)
    with progress.late_bar("rows", total) as advance:
        for second in (1.0, 3.5, 4.0):
            now[0] = second
            advance()
    assert started == want


def test_ci_is_not_a_terminal_that_someone_looks_at(monkeypatch):
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.delenv("CI", raising=False)
    assert progress.interactive()
    monkeypatch.setenv("CI", "true")
    assert not progress.interactive()


def test_the_bar_of_a_run_counts_steps_where_someone_looks(monkeypatch):
    bar = Bar()
    for looked_at in (True, False):
        monkeypatch.setattr("uedpo.callbacks.progress.interactive", lambda stream, seen=looked_at: seen)
        assert bar.is_enabled is looked_at
    assert hasattr(RichProgressBar, "_get_train_description")  # else Lightning asks for another name
    logged = {"train/loss": 0.5, "train/margin": 1.0, "perf/pairs_per_second": 3.0, "v_num": 0}
    monkeypatch.setattr(RichProgressBar, "get_metrics", lambda self, trainer, module: logged)
    assert bar.get_metrics(None, None) == {"loss": 0.5, "pairs_per_second": 3.0}


def test_data_wait_is_the_share_between_micro_batches(monkeypatch):
    from types import SimpleNamespace

    from uedpo.callbacks.throughput import Throughput

    clock = iter([0.0, 3.0, 4.0])
    monkeypatch.setattr("uedpo.callbacks.throughput.time.perf_counter", lambda: next(clock))
    logged = {}
    module = SimpleNamespace(log=lambda name, value, **_: logged.update({name: value}))
    trainer, batch = SimpleNamespace(world_size=1), SimpleNamespace(ids=["a", "b"])
    callback = Throughput()
    callback.on_train_start(trainer, module)
    callback.on_train_batch_start(trainer, module, batch, 0)
    callback.on_train_batch_end(trainer, module, None, batch, 0)
    assert logged == {"perf/pairs_per_second": 0.5, "perf/data_wait": 0.75}
