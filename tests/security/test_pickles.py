"""Pickles, code that a model brings, and weights of another model: none of it is loaded."""

import contextlib
import json
import pickle
import re
from pathlib import Path

import pytest
import torch

from uedpo.config.overrides import check_trusted_start
from uedpo.errors import ConfigError, InputError
from uedpo.model.adapter import attach_adapter
from uedpo.model.hf import HFModel, lora


class Evil:
    """A pickle that leaves a mark when it is loaded."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return open, (self.marker, "w")


def test_pickles_are_refused_at_the_door(marker, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="reads a pickle"):
        check_trusted_start("evil.pickle")
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with pytest.raises(ConfigError, match="unset it"):
        check_trusted_start(None)
    monkeypatch.delenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")
    check_trusted_start(None)
    torch.save({"state_dict": Evil(marker)}, tmp_path / "evil.ckpt")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "evil.ckpt", weights_only=True)


def shipped(folder):
    """A copy of the shipped model's small files."""
    source = Path(HFModel("uedpo:micro_llava").location)
    folder.mkdir()
    for file in source.iterdir():
        if file.suffix != ".safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_pickled_weights_are_not_loaded(marker, tmp_path):
    folder = shipped(tmp_path / "model")
    for name in ("pytorch_model.bin", "model.pt"):
        torch.save({"w": Evil(marker)}, folder / name)
        with pytest.raises(InputError, match=f"{name} is a pickle, which can run code"):
            HFModel(str(folder)).base()
        (folder / name).unlink()
    with pytest.raises(InputError, match="no usable weights"):
        HFModel(str(folder)).base()
    (folder / "model.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(InputError, match="no usable weights"):
        HFModel(str(folder)).base()
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    torch.save({"w": Evil(marker)}, adapter / "adapter_model.bin")
    with pytest.raises(InputError, match=r"adapter_model\.bin is a pickle"):
        attach_adapter(torch.nn.Linear(1, 1), adapter)


def test_code_that_a_model_brings_does_not_run(marker, tmp_path):
    folder = shipped(tmp_path / "model")
    (folder / "evil.py").write_text((tmp_path / "evil_module.py").read_text())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps(config | {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config"}})
    )
    with pytest.raises(InputError, match="no usable config"):
        HFModel(str(folder)).config()
    processor = json.loads((folder / "processor_config.json").read_text())
    processor |= {"processor_class": "EvilProcessor", "auto_map": {"AutoProcessor": "evil.Processor"}}
    (folder / "processor_config.json").write_text(json.dumps(processor))
    with contextlib.suppress(InputError):
        HFModel(str(folder)).processor()


def test_another_model_s_adapter_and_tokenizer_are_refused(tmp_path):
    from peft import LoraConfig, get_peft_model

    source = HFModel("uedpo:micro_llava", lora=lora(r=4, alpha=8.0))
    get_peft_model(source.base(), LoraConfig(r=4, target_modules=["q_proj"])).save_pretrained(
        tmp_path / "good"
    )
    policy = attach_adapter(source.base(), tmp_path / "good")
    assert not any(p.requires_grad for p in policy.parameters())
    from safetensors.torch import load_file, save_file

    file = tmp_path / "good" / "adapter_model.safetensors"
    saved = load_file(file)
    first = next(iter(saved))
    for changed, part in (
        ({k.replace("layers.0", "layers.9"): v for k, v in saved.items()}, "layers.9"),
        ({k: v for k, v in saved.items() if k != first}, f"1 missing ({first}"),
        ({k: torch.cat([v, v]) if k == first else v for k, v in saved.items()}, "1 of another shape"),
    ):
        save_file(changed, file)
        with pytest.raises(InputError, match=re.escape(part)):
            attach_adapter(source.base(), tmp_path / "good")
    processor, config = source.processor(), source.config()
    source.check(processor, config)
    processor.image_token = "</s>"
    processor.tokenizer.add_tokens([f"word{i}" for i in range(2000)])
    with pytest.raises(
        InputError, match=r"tokenizer has \d+ tokens, the model's vocabulary 768; .*image token '</s>'"
    ):
        source.check(processor, config)
