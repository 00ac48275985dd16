"""Live bytes and FLOPs of `uedpo.plan.ledger`, against numbers counted by hand."""

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from uedpo.plan.ledger import Ledger
from uedpo.plan.step import Counted

MB = 2**18  # floats


def fake(*shape, dtype=torch.float32):
    with FakeTensorMode(allow_non_fake_inputs=True):
        return torch.empty(shape, dtype=dtype)


def test_ledger_counts_a_storage_once_and_until_it_is_freed():
    x = fake(MB)
    ledger = Ledger()
    with ledger:
        ledger.tag(x, "given")
        y = x * 2
        views = y.view(512, -1)[1:], y.detach()
        assert ledger.total == 8 * MB
        z = y + 1
        assert ledger.total == 12 * MB
        del z
        assert ledger.total == 8 * MB
        del y, views
    assert ledger.total == 4 * MB
    assert sum(ledger.peak.values()) == 12 * MB
    assert ledger.peak["given"] == 4 * MB


def test_ledger_knows_what_autograd_keeps():
    w = torch.nn.Parameter(fake(64, 64))
    ledger = Ledger()
    with ledger:
        ledger.tag(w, "weights")
        x = torch.zeros(8, 64)
        with ledger.phase("forward"):
            loss = (x @ w).tanh().tanh().sum()
        # a product needs x, each tanh its own result: the product itself is gone, the loss is there
        assert ledger.live["forward"] == 2 * 8 * 64 * 4 + 4
        loss.backward()
    assert w.grad.shape == w.shape


def test_ledger_counts_products_of_both_passes():
    w = torch.nn.Parameter(fake(16, 32))
    x = torch.zeros(4, 16, requires_grad=True)
    ledger = Ledger()
    with ledger:
        with ledger.phase("forward"):
            y = (x @ w).sum()
        with ledger.phase("backward"):
            y.backward()
    assert ledger.flops == {"forward": 2 * 4 * 16 * 32, "backward": 2 * 2 * 4 * 16 * 32}


def test_ledger_takes_numbers_nobody_computed():
    x, real = fake(4, 6), torch.tensor([True, False, True, True])
    with Ledger():
        assert bool((x > 0).any())
        assert x[x > 0].shape == (24,)  # all of them, the most there can be
        assert x[real].shape == (3, 6)
        assert x.masked_select(real[:, None].expand(4, 6)).shape == (18,)
    assert isinstance(real, torch.Tensor)
    assert real.sum() == 3


def test_quantised_shrinks_linear_layers_alone():
    counted = Counted({"frozen weights": 1000, "other": 50}, 0, "probe", {"probe": 1050}, {}, 800, 2)
    assert counted.quantised("frozen weights", "8bit").peak == 1050 - 400
    made = counted.quantised("frozen weights", "4bit")
    assert made.parts == {"frozen weights": 1000 - int(800 * (1 - 4.127 / 16)), "other": 50}
    assert made.peaks == {"probe": made.peak}
