import os
import tarfile
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")


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
