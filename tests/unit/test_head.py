import pytest
import torch

from uedpo.scoring import head


@pytest.fixture
def inputs(monkeypatch):
    monkeypatch.setattr(head, "CHUNK_ELEMENTS", 100)  # 5 rows of 17 logits a chunk
    torch.manual_seed(0)
    hidden = torch.randn(13, 6, dtype=torch.float64, requires_grad=True)
    weight, bias = torch.randn(17, 6, dtype=torch.float64), torch.randn(17, dtype=torch.float64)
    return hidden, weight, bias, torch.randint(0, 17, (13,))


def naive(hidden, weight, bias, tokens):
    logits = torch.nn.functional.linear(hidden, weight, bias)
    logps = logits.log_softmax(-1)
    picked = (x.gather(-1, tokens[:, None])[:, 0] for x in (logps, logits))
    return *picked, logits.argmax(-1), -(logps.exp() * logps).sum(-1)


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("trainable", [True, False])
def test_chunked_head_equals_the_whole_one_with_gradients(inputs, trainable, has_bias):
    hidden, weight, bias, tokens = inputs
    weight.requires_grad_(trainable)
    bias = bias.requires_grad_(trainable) if has_bias else None
    wanted = [hidden, *([weight] + [bias] * has_bias if trainable else [])]
    scores = [f(hidden, weight, bias, tokens) for f in (head.head_scores, naive)]
    for got, want in zip(*scores, strict=True):
        torch.testing.assert_close(got, want)
    mix = torch.randn(2, 13, dtype=torch.float64)
    got, want = (torch.autograd.grad((mix * torch.stack(s[:2])).sum(), wanted) for s in scores)
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("which", [0, 1])
def test_frozen_head_passes_gradcheck_for_each_output(inputs, which):
    hidden, weight, bias, tokens = inputs
    assert torch.autograd.gradcheck(lambda h: head.head_scores(h, weight, bias, tokens)[which], hidden)


def test_argmax_takes_the_lowest_id_and_bf16_is_scored_in_fp32():
    weight = torch.zeros(9, 4, dtype=torch.bfloat16)
    weight[[3, 7]] = 1
    hidden = torch.ones(2, 4, dtype=torch.bfloat16)
    logps, target, argmax, entropy = head.head_scores(hidden, weight, None, torch.tensor([3, 0]))
    assert argmax.tolist() == [3, 3]
    assert logps.dtype == target.dtype == entropy.dtype == torch.float32


def test_no_tokens_give_no_scores():
    for trainable in (False, True):
        weight = torch.ones(5, 4, requires_grad=trainable)
        none = torch.zeros(0, 4)
        assert [len(x) for x in head.head_scores(none, weight, None, torch.zeros(0).long())] == [0] * 4
