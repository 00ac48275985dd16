"""Loading options: what is trained, what is quantised, what is refused, each in one line."""

import types

import pytest
import torch
from transformers.quantizers.quantizers_utils import should_convert_module

from tests import backbones
from uedpo.data.collate import PairCollator
from uedpo.errors import InputError
from uedpo.model.adapter import attach_adapter
from uedpo.model.families import Family, family_of
from uedpo.model.hf import HFModel, lora
from uedpo.model.lora import AddingLinear, add_lora
from uedpo.model.quantize import quantization_config, why_not
from uedpo.scoring import Scorer

PROJECTORS = {"llava": "multi_modal_projector", "qwen3_vl": "merger", "smolvlm": "connector"}


@pytest.fixture
def folder(tmp_path):
    def save(family):
        backbones.model(family).save_pretrained(tmp_path / family)
        return str(tmp_path / family)

    return save


def batch_of(family):
    return PairCollator(backbones.processor(family), 50)(backbones.pairs())


@pytest.mark.parametrize("family", PROJECTORS)
def test_a_trained_projector_is_the_adapters_own_and_the_reference_keeps_the_models(family, folder, tmp_path):
    source = HFModel(folder(family), lora=lora(r=2, alpha=2.0), train_projector=True)
    policy, none = source.load()
    batch, scorer = batch_of(family), Scorer("plain")
    scorer.attach(policy)
    before = scorer.score(policy, batch).logps
    before.sum().backward()
    trained = {n: p for n, p in policy.named_parameters() if p.requires_grad}
    projector = [n for n in trained if "lora_" not in n]
    assert none is None
    assert projector
    assert all(PROJECTORS[family] in name for name in projector)
    assert all(trained[n].grad.abs().sum() > 0 for n in projector if n.endswith("weight"))
    with torch.no_grad():
        for name in projector:
            trained[name].add_(torch.randn_like(trained[name]), alpha=0.5)
        after = scorer.score(policy, batch).logps
        with policy.disable_adapter():
            reference = scorer.score(policy, batch).logps
        assert not torch.allclose(after, before, atol=1e-3)
        torch.testing.assert_close(reference, before.detach())
        policy.eval().save_pretrained(tmp_path / "adapter")
        loaded = attach_adapter(source.base(), tmp_path / "adapter")
        torch.testing.assert_close(scorer.score(loaded, batch).logps, after)
    with pytest.raises(InputError, match=r"is trained, but image features.*train_projector=false"):
        Scorer("prefix_shared").attach(policy)


@pytest.mark.parametrize("family", ["llava", "gemma3", "idefics3"])
def test_full_fine_tuning_trains_language_model_and_head_against_a_frozen_copy(family, folder):
    source = HFModel(folder(family), train_projector=family == "gemma3", gradient_checkpointing=True)
    policy, reference = source.load()
    trained = {n for n, p in policy.named_parameters() if p.requires_grad}
    path = family_of(policy.config).language_path(policy)
    allowed = (path, "lm_head", "model.multi_modal_projector") if family == "gemma3" else (path, "lm_head")
    assert all(name.startswith(allowed) for name in trained)
    assert any("multi_modal_projector" in n for n in trained) == (family == "gemma3")
    assert policy.training
    assert not reference.training
    assert not any(p.requires_grad for p in reference.parameters())
    batch, scorer = batch_of(family), Scorer("plain")
    scorer.score(policy, batch).logps.sum().backward()
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.grad is not None:
                parameter -= 0.01 * parameter.grad.sign()
        torch.testing.assert_close(
            scorer.score(reference, batch).logps, scorer.score(backbones.model(family), batch).logps
        )
        assert not torch.allclose(scorer.score(policy, batch).logps, scorer.score(reference, batch).logps)


def test_bf16_weights_train_an_adapter_under_autocast():
    model = backbones.model("qwen2_5_vl", dtype=torch.bfloat16)
    model = add_lora(model, 2, 2.0, 0.0, family_of(model.config).lora_targets(model)).train()
    scorer = Scorer("prefix_shared")
    scorer.attach(model)
    with torch.autocast("cpu", torch.bfloat16):
        loss = scorer.score(model, batch_of("qwen2_5_vl")).logps.sum()
    loss.backward()
    adapter = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert {p.dtype for p in adapter.values()} == {torch.float32}
    assert all(p.grad.isfinite().all() and p.grad.any() for n, p in adapter.items() if "lora_B" in n)
    assert loss.dtype == torch.float32


def test_quantised_weights_leave_tower_projector_and_head_alone():
    for family in backbones.CLASSES:
        model = backbones.model(family)
        made = quantization_config("4bit", torch.bfloat16, model.config)
        inside = family_of(model.config).language_path(model)
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.Linear):
                quantised = should_convert_module(name, made.llm_int8_skip_modules)
                assert quantised == name.startswith(inside + "."), name
    assert made.bnb_4bit_quant_type == "nf4"
    assert made.bnb_4bit_compute_dtype == torch.bfloat16
    assert quantization_config("8bit", torch.bfloat16, model.config).load_in_8bit


def test_quantised_models_get_pefts_own_layers():
    model = backbones.model("llava")
    model.is_quantized = True
    targets = family_of(model.config).lora_targets(model)
    assert not any(isinstance(m, AddingLinear) for m in add_lora(model, 2, 2.0, 0.0, targets).modules())


def test_quantising_says_what_is_missing(monkeypatch):
    assert "trainer=gpu" in why_not("cpu")
    monkeypatch.setattr("uedpo.model.quantize.find_spec", lambda name: None)
    assert "pip install bitsandbytes" in why_not("gpu")
    monkeypatch.setattr("uedpo.model.quantize.find_spec", lambda name: name)
    assert why_not("gpu") is None


def test_the_quantised_reference_is_a_copy_of_its_own(folder, monkeypatch):
    asked = []
    source = HFModel(folder("llava"), reference_quantize="8bit")
    weights = source._weights
    monkeypatch.setattr(source, "_weights", lambda bits: asked.append(bits) or weights(None))
    _, reference = source.load()
    assert asked == [None, "8bit"]
    assert not any(p.requires_grad for p in reference.parameters())


def test_hub_models_without_a_revision_get_a_hint(tmp_path):
    config = types.SimpleNamespace(_commit_hash="0123abc")
    hint = HFModel("ORG/NAME").pin_hint(config)
    assert hint == "model.path=ORG/NAME: not pinned; add model.revision=0123abc for the same weights again"
    assert HFModel("ORG/NAME", revision="0123abc").pin_hint(config) is None
    assert HFModel(str(tmp_path)).pin_hint(config) is None
    assert HFModel("uedpo:micro_llava").pin_hint(config) is None


def test_processors_that_need_a_package_say_so(monkeypatch):
    def missing(*args, **kwargs):
        raise ImportError("\nQwen2VLVideoProcessor requires the Torchvision library\n")

    monkeypatch.setattr("uedpo.model.hf.AutoProcessor.from_pretrained", missing)
    with pytest.raises(InputError, match=r"^model.path=.*: its processor needs.*pip install torchvision"):
        HFModel("uedpo:micro_llava").processor()


def test_models_whose_logits_are_scaled_are_refused():
    model = backbones.model("aya_vision")
    Scorer("plain").attach(model)
    head = model.get_output_embeddings()
    head.register_forward_hook(lambda module, args, out: out)  # one that changes nothing
    Scorer("plain").attach(model)
    forward = type(model).forward
    scaled = lambda self, **k: types.SimpleNamespace(logits=forward(self, **k).logits * 0.5)  # noqa: E731
    model.forward = types.MethodType(scaled, model)
    with pytest.raises(InputError, match=r"'aya_vision': its logits are not what its head makes"):
        Scorer("plain").attach(model)
    gemma = backbones.model("gemma3")
    gemma.config.text_config.final_logit_softcapping = 30.0
    with pytest.raises(InputError, match="final_logit_softcapping"):
        Scorer("plain").attach(gemma)


def test_paligemma_and_unknown_layouts_are_refused():
    config = types.SimpleNamespace(model_type="paligemma")
    with pytest.raises(InputError, match=r"'paligemma' is refused: .*both directions"):
        HFModel("x").check(None, config)
    odd = torch.nn.Module()
    odd.model, odd.config = torch.nn.Module(), types.SimpleNamespace(model_type="odd")
    with pytest.raises(InputError, match=r"'odd': has no model.language_model and no model.text_model"):
        Family().lora_targets(odd)
    with pytest.raises(InputError, match="no projector is known for model type 'odd'"):
        Family().projector_paths(odd)
