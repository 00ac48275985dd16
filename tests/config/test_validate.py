import functools
import re

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from uedpo.config.overrides import check_overrides, conf_folder
from uedpo.config.validate import validate
from uedpo.data.formats import FORMATS
from uedpo.errors import ConfigError
from uedpo.results.store import read_rows

EXPERIMENTS, METHODS, CORRUPTIONS, TUNED, MODELS = (
    sorted(p.stem for p in (conf_folder() / group).glob("*.yaml"))
    for group in ("experiment", "method", "corruption", "tuned", "model")
)


@functools.cache
def _composed(*overrides):
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return compose("config", list(overrides))


def composed(*overrides):
    return _composed(*overrides).copy()


def problems(*overrides):
    with pytest.raises(ConfigError) as caught:
        check_overrides(list(overrides))
    return str(caught.value)


def test_default_config_trains_ue_dpo():
    cfg = composed()
    validate(cfg)
    assert cfg.loss._target_.endswith("ue_dpo_loss")
    assert cfg.weights.alpha > 0


@pytest.mark.parametrize("name", EXPERIMENTS)
@pytest.mark.cases(8)
def test_every_experiment_validates(name):
    validate(composed(f"+experiment={name}"))


@pytest.mark.parametrize(
    "overrides",
    [
        ["+experiment=ablation_alpha", "model=llava15_7b", "data=rlhf_v"],
        ["loss=dpo", "weights=uniform"],
        ["trainer=ddp_cpu"],
        ["trainer=gpu"],
        ["logger=wandb"],
        ["evaluation=none"],
        ["model.lora=null"],
        ["data=jsonl", "data.train.path=a.jsonl", "data.val.path=b.jsonl", "evaluation=none"],
        ["data=files", "data.path=a.jsonl", "data.format=sharegpt", "data.num_pairs=3", "evaluation=none"],
        ["data=rlaif_v", "evaluation=none"],
        ["weights=columns"],
        ["weights.alpha=0,0.3,1", "seed=0,1"],
    ],
)
def test_combinations_validate(overrides):
    check_overrides(overrides)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.cases(6)
def test_every_model_validates(name):
    cfg = composed(f"model={name}", *(["model.path=ORG/NAME"] if name == "hf" else []))
    validate(cfg)
    if name != "micro_llava":
        assert cfg.model.lora.r == 128  # the paper's
        assert cfg.model.gradient_checkpointing
        assert re.fullmatch(r"[\w-]+/[\w.-]+", cfg.model.path)


def test_ways_to_hold_a_model_that_do_not_fit_are_refused(monkeypatch):
    assert "model.path: missing" in problems("model=hf")
    text = problems("model.quantize=4bit")
    assert "model.quantize=4bit: bitsandbytes is tested on GPUs only; add trainer=gpu" in text
    monkeypatch.setattr("uedpo.model.quantize.find_spec", lambda name: None)
    assert "pip install bitsandbytes" in problems("model.quantize=8bit", "trainer=gpu")
    monkeypatch.setattr("uedpo.model.quantize.find_spec", lambda name: name)
    check_overrides(["model.quantize=4bit", "trainer=gpu"])
    assert "trains an adapter" in problems("model.quantize=4bit", "trainer=gpu", "model.lora=null")
    check_overrides(["model.reference_quantize=8bit", "trainer=gpu", "model.lora=null"])
    text = problems("model.reference_quantize=8bit", "trainer=gpu")
    assert "under LoRA the reference is the policy itself" in text
    assert "model.quantize='2bit'" in problems("model.quantize=2bit")
    text = problems("model.train_projector=true")
    assert "scoring=prefix_shared computes image features once, without gradient; add scoring=plain" in text
    check_overrides(["model.train_projector=true", "scoring=plain"])


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.cases(6)
def test_every_method_validates(name):
    check_overrides([f"+method={name}"])


@pytest.mark.parametrize("name", TUNED)
@pytest.mark.cases(4)
def test_every_tuned_method_has_the_best_rate_of_its_trials(name):
    cfg = composed(f"+tuned={name}")
    validate(cfg)
    rows = read_rows(conf_folder().parent / "experiments" / "compare_methods" / "tuning.jsonl").values()
    trials = {row["config"]["optim"]["lr"]: f1(row) for row in rows if row["method"] == cfg.method}
    assert len(trials) == 6
    assert max(trials, key=trials.get) == cfg.optim.lr


def f1(row):
    found = row["metrics"]["shift"]
    precision, recall = 1 - found["chair_i"]["value"], found["coverage"]["value"]
    return 2 / (1 / precision + 1 / recall)


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.cases(4)
def test_every_corruption_validates(name):
    check_overrides([f"corruption={name}"])


def test_all_problems_come_in_one_message():
    text = problems(
        "weights.alpa=0.2", "weights.alpha=1.5", "optim.lr=fast", "data=jsonl", "trainer.max_step=3"
    )
    assert "weights.alpa: unknown key; did you mean weights.alpha?" in text
    assert "weights.alpha=1.5: must be" in text
    assert "allowed: >= 0.0 and <= 1.0" in text
    assert "optim.lr='fast'" in text
    assert "data.train.path: missing" in text
    assert "trainer.max_step: unknown key; did you mean trainer.max_steps?" in text
    assert text.startswith("6 problems")


@pytest.mark.parametrize(
    "named",
    [  # what goes into one command: to compose takes longest
        {
            "weights.alpha=-0.1": "weights.alpha=-0.1",
            "weights.tau=0": "weights.tau=0",
            "weights.control=random": "'none', 'constant', 'shuffled' or 'mean_one'",
            "weights.every_n_steps=0": "weights.every_n_steps=0",
            "corruption.k=1000": "corruption.k=1000",
            "corruption.schedule=cosine": "corruption.schedule='cosine'",
            "loss.beta=0": "loss.beta=0",
            "loss.sample_weights=1": "loss.sample_weights: unknown key",
            "seed=-1": "seed=-1",
            "sede=1": "did you mean seed?",
            "trainer.accelerator=mps": "macOS runs on cpu",
            "trainer.max_steps=0": "trainer.max_steps=0",
            "data.batch_size=1.5": "data.batch_size=1.5",
            "data.train.split=test": "data.train.split='test'",
            "model.lora.rank=4": "model.lora.rank: unknown key",
            "evaluation.num_shift=-1": "evaluation.num_shift=-1",
            "callbacks.best.monitr=x": "did you mean callbacks.best.monitor?",
        },
        {
            "weights.alpha=nan": "weights.alpha=nan",
            "weights.tau=0.51": "<= 0.5",
            "loss.beta=inf": "loss.beta=inf",
            "seed=one": "seed='one'",
            "global_batch=7": "global_batch=7",
        },
        {"weights=uniform": "loss=ue_dpo needs token weights"},
        {"+method=ipo": "", "loss.label_smoothing=0.1": "has no effect with loss.form=ipo; set it to 0"},
        {
            "+method=mdpo": "",
            "corruption.least=0.9": "corruption.least=0.9: must not be above corruption.most=0.2",
        },
        {"loss=dpo": "loss=dpo takes no token weights"},
        {"loss=napo": "data.negatives=true go together"},
        {"data.negatives=true": "data.negatives=true go together"},
        {"weights.alpha=0,0.3,2": "weights.alpha=2"},
        {"data=files": "data.path: missing"},
        {"loss._target_=uedpo.loss.nope": "cannot be imported"},
    ],
    ids=lambda named: next(iter(named)),
)
def test_bad_values_name_key_value_and_range(named):
    text = problems(*named)
    assert [part for part in named.values() if part not in text] == []


def test_a_range_names_its_reason():
    text = problems("+method=v_dpo", "loss.gamma=0")
    assert "loss.gamma=0: must be greater than 0 (allowed: > 0.0); at 0 the policy gets no gradient" in text


def test_formats_of_files_are_those_that_exist():
    text = problems("data=files", "data.path=a", "data.format=alpaca", "data.val_share=1", "data.train=x")
    assert all(f"'{name}'" in text.split("data.format='alpaca'")[1] for name in ("auto", *FORMATS))
    assert "data.val_share=1: must be" in text
    assert "data.train: unknown key" in text
    assert "loss=dpo takes no token weights" in problems("loss=dpo", "weights=columns")


def test_saving_probes_where_none_are_made_is_refused():
    text = problems("+method=entropy", "weights.reuse=true")
    assert "weights.reuse=True: saves probes, and signal=entropy with select=signal makes none" in text
    text = problems("weights.signal=margin", "weights.select=all", "weights.every_n_steps=2")
    assert "weights.every_n_steps=2: saves probes" in text
    check_overrides(["weights.signal=entropy", "weights.every_n_steps=2"])  # selecting still needs a probe


def test_missing_group_and_broken_interpolation_are_named():
    cfg = composed()
    OmegaConf.set_struct(cfg, False)
    del cfg["loss"]
    cfg.weights.alpha = "${no.such.key}"
    with pytest.raises(ConfigError) as caught:
        validate(cfg)
    assert "loss: missing" in str(caught.value)
    assert "weights.alpha: does not resolve" in str(caught.value)


def test_sweep_of_an_experiment_is_validated_with_the_command_line():
    assert "weights.alpha: unknown key" in problems("+experiment=controls", "weights.alpha=0.5")


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        (
            ["trainer.accumulate_grad_batches=1,2", "trainer.val_every_n_batches=40,21"],
            "in the trial trainer.accumulate_grad_batches=2 trainer.val_every_n_batches=21",
        ),
        (["loss=ue_dpo,dpo", "weights=uncertainty,uniform"], "in the trial loss=ue_dpo weights=uniform"),
        (["+method=ue_dpo,entropy", "weights.reuse=false,true"], "in the trial method=entropy weights.reuse"),
        (["seed=0,-1"], "seed=-1"),
        (["weights.alpha=interval(0,2)"], "weights.alpha=2.0"),
        (["weights.alpha=choice(0.1,3)"], "weights.alpha=3"),
    ],
)
@pytest.mark.cases(3)
def test_every_combination_of_a_grid_is_validated(overrides, part):
    assert part in problems(*overrides)


def test_a_grid_whose_values_go_together_validates():
    check_overrides(["trainer.max_steps=40,80", "trainer.val_every_n_batches=20,40", "seed=range(3)"])


def test_plugins_that_are_missing_and_metrics_nobody_knows_are_one_line():
    assert "add mode=min or mode=max" in problems("metric=bench/score")
    check_overrides(["metric=bench/score", "mode=max"])
    assert "mode='up'" in problems("mode=up")


def test_missing_checkpoint_and_masks_are_refused(tmp_path):
    assert "no such file" in problems("resume=/nope.ckpt")
    assert "must be 0 with weights=uncertainty" in problems("model.lora.dropout=0.1")
    assert "multiple of" in problems("trainer.accumulate_grad_batches=3")
    assert "seed=" in problems("seed=99999999999")
    assert "model.lora=5: must be a node" in problems("model.lora=5")
    assert "optim.beta1=1" in problems("optim.beta1=1")
    assert "loss.beta" in problems("loss.beta={a:1}")


def test_scoring_that_cannot_work_is_refused():
    text = problems("scoring=fast", "model.attn_implementation=eager")
    assert "scoring='fast': must be 'prefix_shared' or 'plain'" in text
    text = problems("model.attn_implementation=eager")
    assert "scoring=prefix_shared brings its own attention; use sdpa, or scoring=plain" in text
    validate(composed("scoring=plain", "model.attn_implementation=eager"))


def test_several_values_without_multirun_are_one_line():
    with pytest.raises(ConfigError, match=r"weights\.alpha=0,0\.3: several values are a sweep; add -m"):
        check_overrides(["seed=1", "weights.alpha=0,0.3"], multirun=False)
    check_overrides(["+experiment=ablation_k", "corruption.k=100,300"], multirun=False)


def test_empty_paths_are_refused_before_they_mean_this_folder():
    text = problems("hydra.sweep.dir=", "results=''", "seed=0,1")
    assert "hydra.sweep.dir: is empty; give a path, or leave it out" in text
    assert "results: is empty" in text


def test_a_choice_that_is_not_there_is_one_line_with_the_nearest():
    text = problems("+method=tpoo")
    assert "method=tpoo: no such choice; did you mean tpo? there are constant, da_dpo, dpo" in text
    assert "\n" not in text.rstrip()
    assert "logger=nope: no such choice; there are csv, tensorboard, wandb" in problems("logger=[wandb,nope]")
