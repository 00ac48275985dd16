"""`python -m uedpo.export`: adapter, merged weights, model card; exit codes 0 and 2, nothing half-written."""

import json
import re
import shutil
import signal
import sys

import pytest
import torch
from huggingface_hub import ModelCard
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf, open_dict
from peft import PeftModel
from transformers import AutoModelForImageTextToText, AutoProcessor

import uedpo.run
from tests.reliability.harness import tiny_model_folder
from uedpo import Experiment, export
from uedpo.data.collate import PairCollator
from uedpo.evaluation.options import command
from uedpo.microworld.data import MicroWorldPairs
from uedpo.report.card import last_part, write_card


def trained(folder, model, *overrides):
    """A finished run of a tiny model in this process."""
    arguments = [
        f"hydra.run.dir={folder}", f"model.path={model}", "trainer.max_steps=2",
        "trainer.val_every_n_batches=0", "callbacks.best=null", "callbacks.progress=null", "threads=1",
        "data.batch_size=2", "data.train.num_pairs=4", "data.val.num_pairs=2", "report_pairs=0",
        "optim.lr=0.05", *overrides,
    ]  # fmt: skip
    handlers = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)}
    with initialize_config_dir(str(uedpo.run.conf_folder()), version_base="1.3"):
        whole = compose("config", arguments, return_hydra_config=True)
        with open_dict(whole):
            whole.hydra.runtime.output_dir = str(folder)
        HydraConfig.instance().set_config(whole)
        try:
            Experiment.from_config(compose("config", arguments), folder).run()
        finally:
            HydraConfig.instance().cfg = None
            for number, handler in handlers.items():
                signal.signal(number, handler)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model_folder(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="module")
def adapter_run(model, tmp_path_factory):
    few = ("evaluation.num_shift=3", "evaluation.num_train=0")
    return trained(tmp_path_factory.mktemp("runs") / "adapter", model, "model.lora.r=4", *few)


@pytest.fixture
def run(adapter_run, tmp_path):
    """A copy that a test may break."""
    return shutil.copytree(adapter_run, tmp_path / "run", ignore=shutil.ignore_patterns("export"))


@pytest.fixture
def call(monkeypatch, capsys):
    """call("DIR", "key=value", ...) -> (exit code, stdout, stderr)."""

    def go(*arguments):
        monkeypatch.setattr(sys, "argv", ["export", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            command(export.export, bare="run")
        return stopped.value.code, *capsys.readouterr()

    return go


def logits(model, processor):
    collate, pairs = PairCollator(processor, 50), MicroWorldPairs("val", 2)
    return export.response_logits(model.eval(), collate([pairs[i] for i in range(2)]))


def loaded(card, base, folder):
    """(model, processor) of the python lines of a card."""
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]
    names = {}
    exec(code.replace('"BASE"', repr(str(base))).replace('"FOLDER"', repr(str(folder))), names)
    return names["model"], names["processor"]


def test_adapter_is_copied_and_its_card_loads_it(run, model, call):
    code, out, err = call(run)
    assert (code, err) == (0, "")
    folder = run / "export" / "adapter"
    assert f"open {folder / 'README.md'}" in out
    assert "set base_model_name_or_path to the model's hub id" in out
    names = {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    assert {p.name for p in folder.iterdir()} == names
    for name in names - {"README.md"}:
        assert (folder / name).read_bytes() == (run / "adapter" / name).read_bytes()
    text = (folder / "README.md").read_text()
    card = ModelCard(text)
    assert card.data.library_name == "peft"
    assert card.data.base_model is None  # a folder of this machine is none of the hub's
    assert card.data.license is None
    assert {"uedpo", "ue-dpo", "lora"} <= set(card.data.tags)
    assert str(model.parent) not in text
    assert str(run.parent) not in text
    environment = json.loads((run / "environment.json").read_text())
    for said in (environment["data_sha256"], environment["model_sha256"], "rank 4", "arXiv:2605.04874"):
        assert said in text
    coverage = json.loads((run / "metrics.json").read_text())["after"]["shift"]["coverage"]
    value, low, high = (f"{100 * coverage[k]:.1f}" for k in ("value", "low", "high"))
    assert f"| {value} ({low} to {high}) |" in text
    assert "vllm serve BASE --enable-lora --max-lora-rank 8 --lora-modules ue-dpo=FOLDER" in text
    theirs, processor = loaded(text, model, folder)
    base = AutoModelForImageTextToText.from_pretrained(model)
    ours = PeftModel.from_pretrained(base, run / "adapter")
    assert torch.equal(logits(theirs, processor), logits(ours, processor))


def test_merged_weights_give_the_logits_of_the_adapter(run, model, call):
    code, out, err = call(run, "merge=true")
    assert (code, err) == (0, "")
    folder = run / "export" / "merged"
    off, moved = map(float, re.findall(r"by ([\d.e+-]+)", out))
    assert off < 1e-4 < 0.01 < moved
    text = (folder / "README.md").read_text()
    assert ModelCard(text).data.library_name == "transformers"
    assert f"{off:.1e} of their standard deviation" in text
    assert "vllm serve FOLDER" in text
    whole, processor = loaded(text, model, folder)
    base = AutoModelForImageTextToText.from_pretrained(model)
    untrained = logits(base, processor)
    adapted = logits(PeftModel.from_pretrained(base, run / "adapter"), processor)
    merged = logits(whole, processor)
    assert torch.allclose(merged, adapted, atol=1e-4)
    assert not torch.allclose(merged, untrained, atol=1e-2)
    assert not any(str(model) in p.read_text() for p in folder.glob("*.json"))


def test_weights_that_say_something_else_are_refused_and_leave_nothing(run, call, monkeypatch):
    monkeypatch.setattr(PeftModel, "merge_and_unload", lambda self, **options: self.unload(), raising=False)
    code, _, err = call(run, "merge=true")
    assert code == 2
    assert "merging moves them by" in err
    assert "nothing was written" in err
    assert len(err.splitlines()) == 1
    assert not (run / "export").exists()


def test_a_model_trained_whole_is_copied_with_its_processor(model, tmp_path, call):
    run = trained(tmp_path / "run", model, "model.lora=null", "evaluation=none")
    code, _, err = call(run, "merge=true")
    assert code == 2
    assert "this run trained the whole model" in err
    assert call(run, f"output={tmp_path / 'out'}")[0] == 0
    text = (tmp_path / "out" / "README.md").read_text()
    assert "The run had no evaluation" in text
    assert "vllm serve FOLDER" in text
    whole, processor = loaded(text, model, tmp_path / "out")
    there = AutoModelForImageTextToText.from_pretrained(run / "model")
    assert torch.equal(logits(whole, processor), logits(there, AutoProcessor.from_pretrained(model)))
    code, _, err = call(run, f"output={tmp_path / 'out'}")
    assert code == 2
    assert "exists; remove it" in err


def without(name):
    return lambda run: (run / name).unlink()


def other_base(run):
    path = run / "adapter" / "adapter_config.json"
    about = json.loads(path.read_text()) | {"base_model_name_or_path": "llava-hf/llava-1.5-7b-hf"}
    path.write_text(json.dumps(about))


def other_files(run):
    path = run / "environment.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_sha256": "0" * 64}))


def other_shape(run):
    cfg = OmegaConf.load(run / "config.yaml")
    cfg.model.path = "uedpo:micro_llava"
    OmegaConf.save(cfg, run / "config.yaml")
    for name, key in (("environment.json", "model_sha256"), ("adapter/adapter_config.json", None)):
        about = json.loads((run / name).read_text())
        about |= {key: None} if key else {"base_model_name_or_path": "/elsewhere/micro_llava"}
        (run / name).write_text(json.dumps(about))


def hostile(run):
    cfg = OmegaConf.load(run / "config.yaml")
    cfg.model._target_ = "os.system"
    OmegaConf.save(cfg, run / "config.yaml")


def cut(run):
    path = run / "adapter" / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (without("config.yaml"), "not the directory of a run (no config.yaml)"),
        (without("environment.json"), "the run is not finished (no environment.json); go on with resume"),
        (without("adapter/adapter_model.safetensors"), "not finished (no weights in adapter/)"),
        (lambda run: (run / "metrics.json").write_text("{"), "not a whole run ("),
        (lambda run: (run / "adapter/adapter_config.json").write_text("{}"), "peft_type must be LORA"),
        (cut, "adapter_model.safetensors: damaged ("),
        (other_base, "trained with another base (llava-hf/llava-1.5-7b-hf), config.yaml has model.path="),
        (other_files, "whose files are not those of the run (sha256 "),
        (other_shape, "adapter of another base model"),
        (hostile, "model._target_='os.system': is not allowed"),
    ],
)  # fmt: skip
def test_what_is_no_finished_run_is_one_line(run, call, spoil, said):
    spoil(run)
    code, _, err = call(run, "merge=true")
    assert code == 2
    assert said in err
    assert len(err.strip().splitlines()) <= 2  # configuration problems have a head
    assert not list(run.glob("export/*"))
    assert not list(run.glob("export/.*"))


def test_base_in_a_relative_folder_is_no_hub_id(run, call):
    path = run / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": "models/tiny"}))
    cfg = OmegaConf.load(run / "config.yaml")
    cfg.model.path = "models/tiny"
    OmegaConf.save(cfg, run / "config.yaml")
    code, out, _ = call(run)
    assert code == 0
    assert "set base_model_name_or_path to the model's hub id" in out
    assert ModelCard((run / "export" / "adapter" / "README.md").read_text()).data.base_model is None


def test_arguments_that_are_none_are_one_line(run, call):
    assert "give one directory of a run" in call(run, "merg=true")[2]
    assert "merge='perhaps'" in call(run, "merge=perhaps")[2]
    assert "not the directory of a run" in call(run.parent / "nothing")[2]


def test_card_has_no_secret_and_no_folder_of_the_machine(run, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "correct-horse-battery")
    cfg = OmegaConf.load(run / "config.yaml")
    cfg.method = "mine hf_" + "aB3x" * 9
    cfg.model.path = "llava-hf/llava-1.5-7b-hf"
    cfg.data = {"path": "/home/ann lee/private/rows.jsonl", "val_path": "openbmb/RLHF-V-Dataset"}
    cfg.feature_cache = "~ann/cache"
    environment = json.loads((run / "environment.json").read_text()) | {"model_sha256": None}
    environment["versions"]["torch"] = "2 (built in /opt/ann/torch/src) correct-horse-battery"
    write_card(tmp_path, "adapter", cfg, {"after": None}, environment, {"r": 128, "lora_alpha": 256})
    text = (tmp_path / "README.md").read_text()
    for secret in ("aB3x", "correct-horse", "ann", "private", "/opt"):
        assert secret not in text
    card = ModelCard(text)
    assert card.data.base_model == "llava-hf/llava-1.5-7b-hf"
    assert card.data.datasets == ["openbmb/RLHF-V-Dataset"]
    assert "rows.jsonl" in text
    assert "--max-lora-rank 128" in text
    assert [last_part(p) for p in ("C:\\data\\x", "/x/", "a/b", "file:///a/b")] == ["x", "x", "a/b", "b"]
