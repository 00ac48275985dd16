import os
import tarfile
from collections import Counter
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, here and in every child

# folders whose tests train, start processes, attack or open a browser
WHOLE = ("integration", "reliability", "security", "browser")
# longest first, so that two workers end together
LONGEST = (
    "test_sweep.py", "test_stored_rows.py", "test_run.py", "test_methods.py", "test_plan.py",
    "test_training.py", "test_tracking.py", "test_reuse.py", "test_add_a_method.py", "test_kill.py",
    "test_secrets.py", "test_score_malformed.py", "test_reference_cache.py", "test_benchmark_files.py",
    "test_benchmark_pipeline.py",
)  # fmt: skip


def pytest_collection_modifyitems(items):
    """Mark whole runs, and as slow what a test has beyond its `cases`; order files.

    Tests that fork come first, on each worker: a process that has trained itself has no children that can.
    """

    def order(item):
        folder, name = item.path.parts[-2:]
        forks = folder == "reliability"
        place = LONGEST.index(name) if name in LONGEST else len(LONGEST)
        return (not forks, forks and name == "test_equal.py", place)

    seen = Counter()
    for item in items:
        if item.path.parent.name in WHOLE:
            item.add_marker(pytest.mark.integration)
        if cases := item.get_closest_marker("cases"):
            seen[item.path, item.originalname] += 1
            if seen[item.path, item.originalname] > cases.args[0]:
                item.add_marker(pytest.mark.slow)
    items.sort(key=order)


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Bit-for-bit comparisons need one summation order."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def nltk(tmp_path_factory):
    """nltk with the data of the benchmark folder, found through NLTK_DATA and nowhere else."""
    nltk = pytest.importorskip("nltk")
    if "UEDPO_BENCHMARKS" not in os.environ:
        pytest.skip("set UEDPO_BENCHMARKS")
    folder = tmp_path_factory.mktemp("nltk")
    with tarfile.open(Path(os.environ["UEDPO_BENCHMARKS"]) / "nltk_data.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NLTK_DATA", str(folder / "nltk_data"))
        patch.setattr(nltk.data, "path", [])
        yield nltk
