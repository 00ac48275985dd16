import os

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Bit-for-bit comparisons need one summation order."""
    import torch

    torch.set_num_threads(1)
