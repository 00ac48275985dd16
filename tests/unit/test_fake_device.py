"""The harness itself: what it counts, what it refuses, and that it computes as a CPU."""

import pytest
import torch

from tests.fake_device import CUDA, checked_varlen, fake_device, place
from uedpo.types.layout import to_device

MASK = [True, False, True]
WAITING = {
    "item": lambda x: x.sum().item(),
    "float": lambda x: float(x[0]),
    "bool": lambda x: bool((x > 0).any()),
    "tolist": lambda x: x.tolist(),
    "cpu": lambda x: x.cpu(),
    "to": lambda x: x.to("cpu"),
    "nonzero": lambda x: x.nonzero(),
    "index by a mask": lambda x: x[x > 0],
    "write by a mask": lambda x: x.index_put((x > 0,), x[:1].repeat(2)),
    "masked_select": lambda x: x.masked_select(x > 0),
    "unique": lambda x: x.unique(),
    "repeat_interleave": lambda x: x.repeat_interleave((x > 0).long()),
    "equal": lambda x: torch.equal(x, x),
    "tensor of tensors": lambda x: torch.tensor([x[0], 2.0]),
    "masked_scatter backward": lambda x: (
        torch.zeros_like(x).masked_scatter(x > 0, x.clone().requires_grad_()).sum().backward()
    ),
    "blocking copy": lambda x: torch.ones(3).to(CUDA),
    "copy from memory that is not pinned": lambda x: torch.ones(3).to(CUDA, non_blocking=True),
    "number to the device": lambda x: torch.tensor(1.0, device=CUDA),
    "index on the host": lambda x: x[torch.tensor([0, 1])],
    "list as an index": lambda x: x[[0, 1]],
    "write to the host": lambda x: torch.zeros(3).copy_(x),
}
FREE = {
    "where": lambda x: torch.where(x > 0, x, 0),
    "fill by a mask": lambda x: x.clone().__setitem__(x > 0, 1.0),
    "repeat_interleave by a number": lambda x: x.repeat_interleave(2),
    "gather": lambda x: x.gather(0, torch.zeros(2, dtype=torch.long, device=CUDA)),
    "made there": lambda x: torch.full((3,), 2.0, device=x.device) + x + torch.tensor(1.0),
    "number of the host": lambda x: x * torch.tensor(2.0),
    "pinned copy": lambda x: to_device(torch.ones(3), CUDA),
    "values of the host": lambda x: float(torch.ones(())),
    "backward": lambda x: (x.clone().requires_grad_().exp() * x).sum().backward(),
}


def there():
    return torch.tensor([1.0, -1.0, 2.0]).pin_memory().to(CUDA, non_blocking=True)


@pytest.mark.parametrize("name", WAITING)
def test_what_waits_is_counted(name):
    with fake_device() as gpu:
        x = there()
        WAITING[name](x)
    assert gpu.syncs
    assert all(s.where.startswith("unit/test_fake_device.py:") for s in gpu.syncs)


@pytest.mark.parametrize("name", FREE)
def test_what_does_not_wait_is_not(name):
    with fake_device() as gpu:
        FREE[name](there())
    assert gpu.syncs == []


@pytest.mark.parametrize(
    "mix",
    [
        lambda x: x + torch.ones(3),
        lambda x: torch.cat([x, torch.ones(1)]),
        lambda x: torch.ones(3)[x.long()],
        lambda x: torch.where(x > 0, x, torch.zeros(3)),
        lambda x: torch.stack([x[0], torch.tensor(1.0)]),
        lambda x: torch.nn.Linear(3, 2)(x),
        lambda x: x.index_copy(0, torch.tensor([1]), x[:1]),
    ],
)
def test_two_devices_do_not_mix(mix):
    with fake_device(), pytest.raises(RuntimeError, match="two devices"):
        mix(there())


def test_tensors_say_where_they_are_and_compute_as_ever():
    with fake_device():
        x = there()
        y = (x[1:].view(2, 1) * 2).to(torch.float64)
        assert x.device == y.device == CUDA
        assert x.is_cuda
        assert not torch.ones(1).is_cuda
        assert place(torch.zeros_like(y)) == place(y.new_zeros(2)) == CUDA
        with pytest.raises(TypeError, match="numpy"):
            x.numpy()
        layer = torch.nn.Linear(3, 2).to(CUDA)
        layer(x).square().sum().backward()
        assert layer.weight.grad.device == CUDA
        grad = layer.weight.grad.cpu()
        twin = torch.nn.Linear(3, 2)
        twin.load_state_dict({k: v.cpu() for k, v in layer.state_dict().items()})
        twin(x.cpu()).square().sum().backward()
    assert torch.equal(grad, twin.weight.grad)


def test_the_kernel_has_a_contract():
    with fake_device() as gpu:
        call = checked_varlen(gpu)
        q = torch.randn(4, 2, 8, device=CUDA, dtype=torch.bfloat16)
        ends = to_device(torch.tensor([0, 3, 4], dtype=torch.int32), CUDA)
        options = {"scale": 1.0, "window_size": (-1, 0)}
        assert call(q, q, q, ends, ends, 3, 3, **options).shape == q.shape
        for wrong in (
            lambda: call(q.float(), q.float(), q.float(), ends, ends, 3, 3, **options),
            lambda: call(q, q, q, ends.long(), ends.long(), 3, 3, **options),
            lambda: call(q.transpose(0, 1), q, q, ends, ends, 3, 3, **options),
            lambda: call(q[..., :6], q[..., :6], q[..., :6], ends, ends, 3, 3, **options),
            lambda: call(q, q[:, :1], q[:, :1], ends, ends, 3, 3, **options),
            lambda: call(q, q, q, ends, ends, 4, 3, **options),
            lambda: call(q, q, q, ends, ends, 3, 3, scale=1.0),
        ):
            with pytest.raises(AssertionError):
                wrong()
    assert gpu.syncs == []
