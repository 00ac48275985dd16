"""`uedpo.plan` counts the attention of the device that is planned, memory and work by hand."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from uedpo.plan.ledger import Ledger
from uedpo.scoring import attention, varlen
from uedpo.scoring.attention import PrefixLayout, as_on_gpu, shared_prefix_attention

HEADS, KEY_HEADS, SIZE = 4, 2, 16
LENGTHS = [(6, 3, 4), (5, 2)]
QUERIES = 6 + 3 + 4 + 5 + 2
KEYS = 6 + 9 + 10 + 5 + 7  # a response sees its prefix and itself
PAIRS = 6 * 6 + 3 * 9 + 4 * 10 + 5 * 5 + 2 * 7


@pytest.fixture(autouse=True)
def _no_kernel_is_remembered():
    attention._kernel.cache_clear()
    yield
    attention._kernel.cache_clear()


def counted(capability, heads=KEY_HEADS):
    """(bytes that the forward pass keeps, FLOPs of forward and backward) of one attention layer in bf16."""
    fakes = FakeTensorMode(allow_non_fake_inputs=True)
    with fakes:  # as projections give them: [1, S, heads, D], seen as [1, heads, S, D]
        q, k, v = (
            torch.empty(1, QUERIES, n, SIZE, dtype=torch.bfloat16).transpose(1, 2).requires_grad_()
            for n in (HEADS, heads, heads)
        )
    ledger = Ledger()
    module = nn.Module()
    module.num_key_value_groups = HEADS // heads
    with as_on_gpu(capability), ledger:
        ledger.tag([q, k, v], "given")
        layout = PrefixLayout(LENGTHS, torch.zeros(0))
        with ledger.phase("forward"):
            out, _ = shared_prefix_attention(module, q, k, v, None, prefix_layout=layout)
        kept = ledger.live["forward"]
        with ledger.phase("backward"):
            out.float().sum().backward()
    assert k.grad.shape == k.shape
    return kept, dict(ledger.flops)


@pytest.mark.skipif(varlen.torch_function() is None, reason="this torch has no varlen_attn")
@pytest.mark.parametrize("key_heads", [KEY_HEADS, HEADS])
def test_a_gpu_keeps_a_prefix_once_for_each_piece_and_no_heads_twice(key_heads):
    kept, flops = counted((8, 0), key_heads)
    repeated = 2 * KEYS * key_heads * SIZE * 2
    output, logsumexp = QUERIES * HEADS * SIZE * 2, QUERIES * HEADS * 4
    small = 2 * 6 * 4 + 2 * 8  # offsets of six, two numbers of a random state
    assert kept == pytest.approx(repeated + output + logsumexp, abs=3 * small)
    assert flops["forward"] == 2 * 2 * PAIRS * HEADS * SIZE
    assert flops["backward"] == 5 * 2 * PAIRS * HEADS * SIZE  # the logits once more, and four products


def test_a_torch_that_takes_no_grouped_heads_keeps_them_repeated(monkeypatch):
    """Both stand-ins keep what they are given, as the kernel does."""

    def torch_2_10(q, k, v, cu_q, cu_k, max_q, max_k, is_causal=False, return_aux=None):
        return q * (k * v).sum()

    def torch_2_13(q, k, v, *rest, scale=None, window_size=(-1, -1), enable_gqa=False):
        return q * (k * v).sum()

    kept = []
    for version in (torch_2_10, torch_2_13):
        monkeypatch.setattr(varlen, "torch_function", lambda version=version: version)
        attention._kernel.cache_clear()
        kept.append(counted((8, 0))[0])
    scaled = QUERIES * HEADS * SIZE * 2  # the older one has no scale: it gets scaled queries
    assert kept[0] - kept[1] == pytest.approx(2 * KEYS * (HEADS - KEY_HEADS) * SIZE * 2 + scaled, abs=scaled)


def test_without_a_gpu_the_pieces_are_counted():
    kept, flops = counted(None)
    assert kept != pytest.approx(counted((8, 0))[0], rel=0.01)
    assert flops["forward"] == 2 * 2 * PAIRS * HEADS * SIZE


def test_an_old_gpu_takes_the_pieces():
    assert counted((7, 5)) == counted(None)
