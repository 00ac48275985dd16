"""Adapters of others: nothing they name is imported or evaluated, and their tensors say what is built."""

import json
import os
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.security.limits import edit, one_line
from uedpo.model.adapter import attach_adapter
from uedpo.model.hf import HFModel


def base(model):
    return HFModel(str(model)).base()


def test_our_own_adapter_names_its_layers_and_is_read_again(model, adapter):
    about = json.loads((adapter / "adapter_config.json").read_text())
    assert all(name.startswith("model.language_model.layers.") for name in about["target_modules"])
    policy = attach_adapter(base(model), adapter)
    saved = load_file(adapter / "adapter_model.safetensors")
    own = {k.replace(".default", ""): v for k, v in policy.state_dict().items() if "lora_" in k}
    assert own.keys() == saved.keys()
    assert all(torch.equal(own[k], saved[k]) for k in own)


def test_ranks_and_scales_of_single_layers_are_those_of_peft(model, tmp_path):
    from peft import LoraConfig, PeftModel, get_peft_model

    options = {"rank_pattern": {"q_proj": 3}, "alpha_pattern": {"layers.1.self_attn.v_proj": 9}}
    config = LoraConfig(r=2, lora_alpha=5, target_modules=["q_proj", "v_proj"], use_rslora=True, **options)
    made = get_peft_model(base(model), config, "default")
    for name, weight in made.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    made.save_pretrained(tmp_path / "theirs")
    ours = attach_adapter(base(model), tmp_path / "theirs")
    theirs = PeftModel.from_pretrained(base(model), str(tmp_path / "theirs"))
    ids = torch.arange(5, 15)[None]
    assert torch.equal(ours(input_ids=ids).logits, theirs.eval()(input_ids=ids).logits)
    assert not torch.allclose(ours(input_ids=ids).logits, base(model)(input_ids=ids).logits, atol=1e-3)


OPTIONS = {
    "megatron": ({"megatron_config": {"a": 1}, "megatron_core": "megatron.core"}, "is more than plain LoRA"),
    "megatron core": ({"megatron_core": "megatron.evil"}, "megatron_core is more than plain LoRA"),
    "kind": ({"peft_type": "IA3"}, "peft_type must be LORA"),
    "no kind": ({"peft_type": None}, "peft_type must be LORA"),
    "loftq": ({"loftq_config": {"loftq_bits": 4}}, "loftq_config is more than plain LoRA"),
    "replication": ({"layer_replication": [[0, 10**9]]}, "layer_replication is more than plain LoRA"),
    "parameters": ({"target_parameters": ["(a+)+$"]}, "target_parameters is more than plain LoRA"),
    "corda": ({"corda_config": {"cache_file": "/etc/passwd"}}, "corda_config is more than plain LoRA"),
    "unknown": ({"evil": "evil_module.run"}, "evil is more than plain LoRA"),
    "alpha": ({"lora_alpha": "8"}, "lora_alpha must be a number"),
    "alpha inf": ({"lora_alpha": float("inf")}, "lora_alpha must be a number"),
    "dropout": ({"lora_dropout": 2}, "must be from 0 to 1"),
    "alpha pattern": ({"alpha_pattern": {"(a|a)*$": 1}}, "must be a module's name, no pattern"),
    "alpha list": ({"alpha_pattern": [1]}, "a number for each name"),
    "saved": ({"modules_to_save": ["(a+)+$"]}, "must be a module's name, no pattern"),
    "saved text": ({"modules_to_save": "lm_head"}, "must be a list of names"),
    "saved whole": ({"modules_to_save": ["model"]}, "missing (base_model.model.model."),
    "targets": ({"target_modules": ["(a+)+$"]}, "must be a module's name, no pattern"),
    "more targets": ({"target_modules": ["q_proj", "lm_head"]}, "1 missing (lm_head)"),
    "bias": ({"bias": "evil"}, "bias none, all or lora_only"),
    "alpha huge": ({"lora_alpha": 10**400}, "a number of 401 digits"),
    "alphas": ({"alpha_pattern": {f"a{i}": 1 for i in range(100_000)}}, "more names than the model has"),
    "many saved": ({"modules_to_save": [f"a{i}" for i in range(100_000)]}, "more names than the model has"),
    "xlora": ({"peft_type": "XLORA"}, "peft_type must be LORA"),
    "tokens": ({"trainable_token_indices": [1]}, "trainable_token_indices is more than plain LoRA"),
    "dora": ({"use_dora": "yes"}, "must be true or false"),
}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.cases(8)
def test_options_beyond_plain_lora_are_one_line(marker, model, adapter, name):
    changes, said = OPTIONS[name]
    edit(adapter / "adapter_config.json", **changes)
    assert said in one_line(lambda: attach_adapter(base(model), adapter))


EVALUATED = {
    "never returns": {"target_modules": "(.*_*)*z"},
    "broken": {"target_modules": "(((("},
    "rank": {"r": 10**9},
    "rank pattern": {"rank_pattern": {"(.*_*)*z": 10**9}},
    "layers": {"layers_to_transform": [10**9], "layers_pattern": "(.*)*z"},
    "excluded": {"exclude_modules": "(.*_*)*z"},
    "start": {"init_lora_weights": "eva"},
}


@pytest.mark.parametrize("name", EVALUATED)
def test_what_the_tensors_say_themselves_is_not_evaluated(marker, model, adapter, name):
    edit(adapter / "adapter_config.json", **EVALUATED[name])
    policy = attach_adapter(base(model), adapter)
    assert {c.r for c in policy.peft_config.values()} == {2}


def test_adapter_files_that_are_none_are_one_line(model, adapter):
    for text, said in (
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ("{}" + " " * 2**23, "more than 4,194,304 bytes"),
        ("[1]", "must hold a JSON object"),
        ("{", "not JSON"),
    ):
        (adapter / "adapter_config.json").write_text(text)
        assert said in one_line(lambda: attach_adapter(base(model), adapter))


def test_tensors_are_compared_before_anything_is_built(model, adapter):
    file = adapter / "adapter_model.safetensors"
    saved = load_file(file)
    name = next(k for k in saved if "lora_A" in k)
    for changed, said in (
        ({name: torch.zeros(2, 99)}, f"1 of another shape ({name})"),
        ({name: torch.zeros(0, 16)}, f"1 of another shape ({name})"),
        ({"base_model.model.evil.lora_A.weight": torch.zeros(1, 1)}, "not of this model"),
        ({"evil": torch.zeros(1)}, "1 not of this model (evil)"),
        ({name: torch.tensor(1.0)}, f"1 of another shape ({name})"),
        ({name: saved[name] * torch.nan}, f"{name} must hold finite numbers"),
        ({name: saved[name].long()}, "must hold finite numbers with a point; this is torch.int64"),
    ):
        save_file(saved | changed, file)
        assert said in one_line(lambda: attach_adapter(base(model), adapter))
    save_file({"x": torch.zeros(1)}, file)
    assert "none of a LoRA" in one_line(lambda: attach_adapter(base(model), adapter))


@pytest.mark.slow
def test_a_header_of_hundreds_of_thousands_of_tensors(model, adapter):
    header = {f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(300_000)}
    data = json.dumps(header).encode()
    (adapter / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(data)) + data + b" " * 9)
    assert "which no file of weights has" in one_line(lambda: attach_adapter(base(model), adapter))


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_files_of_an_adapter_are_in_its_folder(model, adapter, tmp_path, name):
    (adapter / name).rename(tmp_path / name)
    os.symlink(tmp_path / name, adapter / name)
    assert f"{name}: a link that leaves" in one_line(lambda: attach_adapter(base(model), adapter))


def test_an_adapter_in_the_hub_s_cache_is_read_through_its_links(model, adapter, tmp_path):
    snapshot, blobs = tmp_path / "m" / "snapshots" / "0123", tmp_path / "m" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for file in adapter.iterdir():
        file.rename(blobs / file.name)
        os.symlink(f"../../blobs/{file.name}", snapshot / file.name)
    attach_adapter(base(model), snapshot)
