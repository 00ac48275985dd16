"""Attention without padding: every version of the kernel computes what the segments compute."""

import sys
import types

import pytest
import torch

from uedpo.scoring import attention, varlen
from uedpo.scoring.attention import PrefixLayout, _segments, _varlen, shared_prefix_attention

CUDA = torch.device("cuda", 0)


def by_hand(q, k, v, cu_q, cu_k, max_q, max_k, scale):
    """What the kernels promise: causal within each piece, aligned at the bottom right."""
    done = []
    for i in range(len(cu_q) - 1):
        one, keys, values = q[cu_q[i] : cu_q[i + 1]], k[cu_k[i] : cu_k[i + 1]], v[cu_k[i] : cu_k[i + 1]]
        assert len(one) <= max_q
        assert len(keys) <= max_k
        keys, values = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (keys, values))
        logits = torch.einsum("qhd,khd->hqk", one, keys) * scale
        later = torch.ones(len(one), len(keys), dtype=torch.bool).triu(len(keys) - len(one) + 1)
        done.append(torch.einsum("hqk,khd->qhd", logits.masked_fill(later, -torch.inf).softmax(-1), values))
    return torch.cat(done)


def torch_2_10(q, k, v, cu_q, cu_k, max_q, max_k, is_causal=False, return_aux=None):
    assert is_causal
    assert q.shape[1] == k.shape[1] == v.shape[1]
    return by_hand(q, k, v, cu_q, cu_k, max_q, max_k, q.shape[-1] ** -0.5)


def torch_with_scale(q, k, v, cu_q, cu_k, max_q, max_k, *, scale=None, window_size=(-1, -1)):
    assert window_size == (-1, 0)
    assert q.shape[1] == k.shape[1] == v.shape[1]
    return by_hand(q, k, v, cu_q, cu_k, max_q, max_k, scale)


def torch_2_13(q, k, v, cu_q, cu_k, max_q, max_k, *, scale=None, window_size=(-1, -1), enable_gqa=False):
    assert window_size == (-1, 0)
    assert enable_gqa == (q.shape[1] != k.shape[1])
    return by_hand(q, k, v, cu_q, cu_k, max_q, max_k, scale)


def flash_attn_varlen_func(q, k, v, cu_q, cu_k, max_q, max_k, *, softmax_scale, causal):
    assert causal
    return by_hand(q, k, v, cu_q, cu_k, max_q, max_k, softmax_scale)


def row(heads, kv_heads, size=8, dtype=torch.float64):
    layout = PrefixLayout([(6, 3, 0, 4), (5, 1, 2)], torch.zeros(0))
    torch.manual_seed(0)
    shapes = [(1, h, sum(layout.pieces), size) for h in (heads, kv_heads, kv_heads)]
    return layout, *(torch.randn(shape, dtype=dtype) for shape in shapes)


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("version", [torch_2_10, torch_with_scale, torch_2_13, flash_attn_varlen_func])
def test_every_version_equals_the_segments(version, kv_heads, monkeypatch):
    if version is flash_attn_varlen_func:
        module = types.SimpleNamespace(flash_attn_varlen_func=version)
        monkeypatch.setitem(sys.modules, "flash_attn", module)
        call = varlen.kernel("flash-attn")
    else:
        call = varlen.of_torch(version)
    layout, q, k, v = row(4, kv_heads)
    for scale in (0.3, None):
        torch.testing.assert_close(
            _varlen(call, q, k, v, scale, layout), _segments(q, k, v, 0.0, scale, layout)
        )


@pytest.fixture
def gpu(monkeypatch):
    """A GPU that can; what a test sets takes a part away."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(varlen, "torch_function", lambda: torch_2_13)
    monkeypatch.setattr(varlen, "find_spec", lambda name: None)
    return monkeypatch


def test_the_branch_is_what_device_and_packages_can(gpu):
    assert varlen.branch(CUDA, True, 128) == "torch varlen_attn"
    assert varlen.branch(torch.device("cpu"), True, 128) == "segments (no GPU)"
    assert varlen.branch(CUDA, False, 128).startswith("segments (fp32; ")
    assert varlen.branch(CUDA, True, 12) == "segments (heads of 12)"
    gpu.setattr(varlen, "torch_function", lambda: None)
    assert "has no varlen_attn; upgrade it, or install flash-attn" in varlen.branch(CUDA, True, 128)
    gpu.setattr(varlen, "find_spec", lambda name: name == "flash_attn" or None)
    assert varlen.branch(CUDA, True, 128) == "flash-attn"
    gpu.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert varlen.branch(CUDA, True, 128) == "segments (the GPU has no compute capability 8.0)"
    assert varlen.kernel("segments (no GPU)") is None


def test_a_torch_without_the_module_has_no_function(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", None)
    assert varlen.torch_function() is None


def test_fp32_weights_under_autocast_take_the_kernel(monkeypatch):
    """Rotations leave query and key in fp32 and the value in bf16."""
    seen = []

    def call(q, k, v, *rest):
        seen.append({q.dtype, k.dtype, v.dtype})
        return by_hand(q, k, v, *rest)

    asked = []
    monkeypatch.setattr(
        attention, "_kernel", lambda d, half, *rest: asked.append(half) or (call if half else None)
    )
    layout, q, k, v = row(4, 2, dtype=torch.float32)
    want, _ = shared_prefix_attention(torch.nn.Module(), q, k, v, None, prefix_layout=layout)
    with torch.autocast("cpu", torch.bfloat16):
        got, _ = shared_prefix_attention(torch.nn.Module(), q, k, v.bfloat16(), None, prefix_layout=layout)
    assert (asked, seen) == ([False, True], [{torch.bfloat16}])
    torch.testing.assert_close(got.float(), want, atol=0.03, rtol=0.03)


@pytest.mark.parametrize(
    "device", [pytest.param("cpu", id="rehearsed"), pytest.param("cuda", marks=pytest.mark.gpu)]
)
@pytest.mark.parametrize("size", [64, 128])
@pytest.mark.parametrize("kv_heads", [8, 2])
@pytest.mark.parametrize("lengths", [[(40, 7, 12), (25, 1, 9)], [(40, 0, 5)], [(600, 200, 150)]])
def test_the_kernel_equals_the_segments(kv_heads, size, lengths, device):
    """On a GPU the kernel that is there; in the rehearsal the one that is written out above."""
    name = varlen.branch(torch.device(device), True, size)
    call = by_hand if device == "cpu" else varlen.kernel(name)
    if call is None:
        pytest.skip(name)
    layout = PrefixLayout(lengths, torch.zeros(0))
    total = sum(layout.pieces)
    torch.manual_seed(0)
    q, k, v = (
        torch.randn(1, h, total, size, device=device, dtype=torch.bfloat16, requires_grad=True)
        for h in (8, kv_heads, kv_heads)
    )
    weights = torch.randn(1, total, 8, size, device=device)
    exact = [x.detach().float().requires_grad_() for x in (q, k, v)]
    want = _segments(*exact, 0.0, size**-0.5, layout)
    (want * weights).sum().backward()
    got = _varlen(call, q, k, v, size**-0.5, layout)
    (got * weights).sum().backward()
    torch.testing.assert_close(got.float(), want, atol=0.02, rtol=0.02)
    for x, y in zip((q, k, v), exact, strict=True):
        torch.testing.assert_close(x.grad.float(), y.grad, atol=0.05, rtol=0.05)
