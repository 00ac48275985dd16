import contextlib

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from uedpo.model.lora import AddingLinear, add_lora, without_adapter

TARGETS = r".*(up|down)"


class TwoLayers(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down = nn.Linear(6, 10, bias=False), nn.Linear(10, 6)

    def forward(self, x):
        return self.down(torch.relu(self.up(x)))


def ours_and_pefts(dropout=0.0):
    theirs = get_peft_model(
        TwoLayers(), LoraConfig(r=3, lora_alpha=5, lora_dropout=dropout, target_modules=TARGETS)
    )
    ours = add_lora(TwoLayers(), 3, 5.0, dropout, TARGETS)
    for name, parameter in theirs.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


@pytest.mark.parametrize("grad", [True, False])
def test_adding_linear_is_pefts_layer_values_and_gradients(grad):
    ours, theirs = ours_and_pefts()
    assert sum(isinstance(m, AddingLinear) for m in ours.modules()) == 2
    results = []
    for model in (ours, theirs):
        model.double()
        x = torch.linspace(-1, 1, 60, dtype=torch.float64).view(2, 5, 6).requires_grad_(grad)
        y = model(x)
        y.square().sum().backward()
        trained = [p.grad for n, p in model.named_parameters() if "lora_" in n]
        results.append([y, *trained, *([x.grad] if grad else [])])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


def test_adding_linear_without_its_adapter_is_the_base_layer():
    ours, _ = ours_and_pefts()
    x = torch.randn(4, 6)
    with ours.disable_adapter():
        assert torch.equal(ours(x), TwoLayers()(x))
    assert not torch.equal(ours(x), TwoLayers()(x))


@pytest.mark.parametrize("whole", [[], ["down"]])
def test_without_its_adapter_a_policy_is_what_pefts_context_makes_of_it(whole):
    """Modules that the adapter holds whole, too; nothing else changes, not after an error either."""
    policy = add_lora(TwoLayers(), 3, 5.0, 0.0, r".*up" if whole else TARGETS, whole)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter.add_(1.0)
    x, trained = torch.randn(4, 6), [p.requires_grad for p in policy.parameters()]
    adapted = policy(x)
    with policy.disable_adapter():
        want = policy(x)
    for _ in range(2):
        with contextlib.suppress(KeyError), without_adapter(policy) as base:
            assert base is policy
            assert torch.equal(base(x), want)
            with without_adapter(policy):
                pass
            assert torch.equal(base(x), want)  # still off
            assert [p.requires_grad for p in policy.parameters()] == trained
            raise KeyError
        assert torch.equal(policy(x), adapted)
    assert not torch.equal(want, adapted)


def test_adding_linear_merges_and_drops_out_as_pefts():
    ours, theirs = ours_and_pefts(dropout=0.5)
    x = torch.randn(4, 6)
    torch.manual_seed(1)
    first = ours(x)
    torch.manual_seed(1)
    assert torch.equal(first, theirs(x))
    ours.eval(), theirs.eval()
    ours.merge_adapter(), theirs.merge_adapter()
    assert torch.equal(ours(x), theirs(x))


def test_adding_linear_under_autocast_gives_what_peft_gives():
    ours, theirs = ours_and_pefts()
    x = torch.randn(4, 6)
    with torch.autocast("cpu", torch.bfloat16):
        got, want = ours(x), theirs(x)
    assert got.dtype == want.dtype == torch.bfloat16
    torch.testing.assert_close(got, want, rtol=0.05, atol=0.2)


def test_an_adapter_in_another_dtype_is_left_to_peft():
    ours, theirs = ours_and_pefts()
    for model in (ours, theirs):
        for name, module in model.named_modules():
            if name.endswith("base_layer"):
                module.bfloat16()
    x = torch.randn(4, 6).bfloat16()
    assert torch.equal(ours(x), theirs(x))
