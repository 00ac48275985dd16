"""`UEDPOTrainer` against TRL's own trainer, and against the module of this package."""

import importlib
import os
import re
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForImageTextToText, AutoProcessor

from tests.processes import run
from tests.tiny import tiny_llava
from uedpo.corruption.base import corrupt_batch
from uedpo.corruption.diffusion import Diffusion
from uedpo.loss import ue_dpo_loss
from uedpo.microworld.data import MicroWorldPairs
from uedpo.scoring import plain
from uedpo.weights.probe import UncertaintyProbe


def trl(name):
    """What TRL, or this package for it, names so; imported here, or every worker would while it collects."""
    ours, theirs = map(importlib.import_module, ("uedpo.trl", "trl"))
    return getattr(ours, name) if hasattr(ours, name) else getattr(theirs, name)


ROOT = Path(__file__).parents[2]
LORA = {"r": 4, "lora_alpha": 8, "target_modules": r".*language_model.*(q|v)_proj", "lora_dropout": 0.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(tiny_llava(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def rows():
    pairs = [MicroWorldPairs("train", 6)[i] for i in range(6)]
    return Dataset.from_list([
        {
            "images": [pair.image],
            "prompt": [{"role": "user", "content": pair.prompt}],
            "chosen": [{"role": "assistant", "content": pair.chosen}],
            "rejected": [{"role": "assistant", "content": pair.rejected}],
        }
        for pair in pairs
    ])  # fmt: skip


def trainer(kind, config, folder, rows, path, steps=20, **options):
    common = {
        "output_dir": str(path), "max_steps": steps, "per_device_train_batch_size": 2, "learning_rate": 1e-3,
        "report_to": "none", "save_strategy": "no", "logging_steps": 1, "use_cpu": True, "max_length": None,
        "seed": 3, "gradient_checkpointing": False, "beta": 0.3, "bf16": False, "disable_tqdm": True,
    }  # fmt: skip
    return trl(kind)(
        AutoModelForImageTextToText.from_pretrained(folder), args=trl(config)(**common | options),
        train_dataset=rows, processing_class=AutoProcessor.from_pretrained(folder),
        peft_config=LoraConfig(**LORA),
    )  # fmt: skip


def losses(made):
    return [row["loss"] for row in made.state.log_history if "loss" in row]


def adapter(made):
    return {n: p.detach().clone() for n, p in made.model.named_parameters() if p.requires_grad}


def test_alpha_zero_is_trls_dpo_bit_for_bit(folder, rows, tmp_path):
    plain_dpo = trainer("DPOTrainer", "DPOConfig", folder, rows, tmp_path / "a")
    ours = trainer("UEDPOTrainer", "UEDPOConfig", folder, rows, tmp_path / "b", alpha=0.0)
    for made in (plain_dpo, ours):
        made.train()
    assert len(losses(ours)) == 20
    assert losses(ours) == losses(plain_dpo)
    a, b = adapter(plain_dpo), adapter(ours)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert any(value.abs().sum() > 0 for name, value in b.items() if "lora_B" in name)


def one_batch(made):
    """A batch of the trainer's own loader, and an adapter that does something."""
    torch.manual_seed(5)
    for name, parameter in made.model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.3)
    return next(iter(made.get_train_dataloader()))


def gradients(made, loss):
    made.model.zero_grad()
    loss.backward()
    return {n: p.grad.clone() for n, p in made.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("signal", "weight_on"),
    [("uncertainty", "policy"), ("uncertainty", "log_ratio"), ("entropy", "policy"), ("surprisal", "policy")],
)
def test_gradients_are_those_of_our_own_loss(folder, rows, tmp_path, signal, weight_on):
    free = {} if signal == "uncertainty" else {"select": "signal"}
    made = trainer(
        "UEDPOTrainer", "UEDPOConfig", folder, rows, tmp_path, signal=signal, weight_on=weight_on, **free
    )
    inputs = one_batch(made)
    passes = []
    hook = made.model.get_base_model().model.register_forward_hook(lambda *_: passes.append(1))
    theirs = made._compute_loss(made.model, inputs, False)
    hook.remove()
    assert len(passes) == (4 if signal == "uncertainty" else 2)  # policy, reference, and of u the probe's two
    got = gradients(made, theirs)
    batch = trl("batch").pair_batch(inputs, made.processing_class)
    scores = plain.score(made.model, batch)
    probe = UncertaintyProbe(0.3, signal=signal, **free, corruption=Diffusion(seed=3))
    with torch.no_grad():
        corrupted = plain.score(made.model, batch, corrupt_batch(probe.corruption, batch, 0))
        weights = probe.signals(batch, scores, corrupted if probe.needs_probe else None).weights
        with made.model.disable_adapter():
            reference = plain.score(made.model, batch).logps
    assert (weights != 1).any()
    loss = ue_dpo_loss(scores.logps, reference, batch.mask, weights, beta=0.3, weight_on=weight_on).loss
    assert abs(loss.item() - theirs.item()) < 1e-5
    expected = gradients(made, loss)
    assert expected.keys() == got.keys()
    assert max((expected[n] - got[n]).abs().max().item() for n in got) < 1e-5
    assert max(value.abs().max().item() for value in got.values()) > 1e-3


@pytest.mark.slow
def test_the_program_in_the_docs_trains(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/trl.md").read_text(), re.DOTALL)
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "program.py").write_text(code)
    done = run("program", cwd=tmp_path, env=os.environ | {"PYTHONPATH": f"{ROOT}:{programs}"})
    assert done.returncode == 0, done.stderr[-2000:]
    assert "weights/chosen" in done.stdout
    assert (tmp_path / "out/adapter/adapter_model.safetensors").is_file()


def test_the_batch_is_that_of_our_collator(folder, rows, tmp_path):
    made = trainer("UEDPOTrainer", "UEDPOConfig", folder, rows, tmp_path)
    inputs = one_batch(made)
    batch = trl("batch").pair_batch(inputs, made.processing_class)
    decode = made.processing_class.tokenizer.decode
    texts = {decode(t[m][:-1]).strip() for t, m in zip(batch.tokens, batch.mask, strict=True)}
    assert texts <= {row[side][0]["content"].strip() for row in rows for side in ("chosen", "rejected")}
    assert len(texts) == 4
    assert batch.pixel_values.shape[0] == 2
    assert torch.equal(batch.pixel_values, inputs["pixel_values"][:2])
    spread = trl("batch").of_sequence(torch.where(batch.mask, 2.0, 1.0), batch, inputs["input_ids"].shape[1])
    assert torch.equal(spread == 2, inputs["completion_mask"][:, 1:].bool())


def test_training_logs_the_weights_and_moves_otherwise_than_dpo(folder, rows, tmp_path):
    made = trainer("UEDPOTrainer", "UEDPOConfig", folder, rows, tmp_path, steps=3, alpha=0.6)
    made.train()
    first = made.state.log_history[0]
    assert first["weights/chosen"] > 1 > first["weights/rejected"] > 0.4
    # as in the paper, the margin is not 0 at the first step
    assert abs(first["loss"] - 0.6931) > 1e-2
    plain_dpo = trainer("DPOTrainer", "DPOConfig", folder, rows, tmp_path, steps=3)
    plain_dpo.train()
    a, b = adapter(plain_dpo), adapter(made)
    assert any(not torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"alpha": 2.0}, r"alpha=2.0: must be in \[0, 1\]"),
        (
            {"tau": 0.9, "signal": "x"},
            r"tau=0.9: must be in \(0, 0.5\]; signal='x': must be one of uncertainty",
        ),
        ({"loss_type": "ipo"}, "loss_type=ipo: must be one of sigmoid"),
        ({"ld_alpha": 0.5}, "ld_alpha: token weights do not go with it"),
    ],
)
def test_what_does_not_go_together_is_one_line(folder, rows, tmp_path, options, said):
    with pytest.raises(ValueError, match=said) as error:
        trainer("UEDPOTrainer", "UEDPOConfig", folder, rows, tmp_path, **options)
    assert "\n" not in str(error.value)


def test_another_config_and_rows_of_several_images_are_refused(folder, rows, tmp_path):
    with pytest.raises(TypeError, match="give a UEDPOConfig"):
        trainer("UEDPOTrainer", "DPOConfig", folder, rows, tmp_path)
    made = trainer("UEDPOTrainer", "UEDPOConfig", folder, rows, tmp_path)
    inputs = dict(one_batch(made))
    inputs["pixel_values"] = torch.cat([inputs["pixel_values"]] * 2)
    with pytest.raises(ValueError, match="one image a row"):
        trl("batch").pair_batch(inputs, made.processing_class)
