import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from uedpo.overrides import check_overrides, conf_folder
from uedpo.results import read_rows
from uedpo.validate import ConfigError, validate

EXPERIMENTS, METHODS, CORRUPTIONS, TUNED = (
    sorted(p.stem for p in (conf_folder() / group).glob("*.yaml"))
    for group in ("experiment", "method", "corruption", "tuned")
)


def composed(*overrides):
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return compose("config", list(overrides))


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
        ["weights.alpha=0,0.3,1", "seed=0,1"],
    ],
)
def test_combinations_validate(overrides):
    check_overrides(overrides)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_validates(name):
    check_overrides([f"+method={name}"])


@pytest.mark.parametrize("name", TUNED)
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
    ("override", "part"),
    [
        ("weights.alpha=-0.1", "weights.alpha=-0.1"),
        ("weights.alpha=nan", "weights.alpha=nan"),
        ("weights.tau=0", "weights.tau=0"),
        ("weights.tau=0.51", "<= 0.5"),
        ("corruption.k=1000", "corruption.k=1000"),
        ("weights.control=random", "'none', 'constant', 'shuffled' or 'mean_one'"),
        ("corruption.schedule=cosine", "corruption.schedule='cosine'"),
        ("loss.beta=0", "loss.beta=0"),
        ("loss.beta=inf", "loss.beta=inf"),
        ("seed=-1", "seed=-1"),
        ("seed=one", "seed='one'"),
        ("sede=1", "did you mean seed?"),
        ("trainer.accelerator=mps", "macOS runs on cpu"),
        ("trainer.max_steps=0", "trainer.max_steps=0"),
        ("data.batch_size=1.5", "data.batch_size=1.5"),
        ("data.train.split=test", "data.train.split='test'"),
        ("model.lora.rank=4", "model.lora.rank: unknown key"),
        ("global_batch=7", "global_batch=7"),
        ("evaluation.num_shift=-1", "evaluation.num_shift=-1"),
        ("callbacks.best.monitr=x", "did you mean callbacks.best.monitor?"),
        ("weights=uniform", "loss=ue_dpo needs token weights"),
        ("loss=dpo", "loss=dpo takes no token weights"),
        ("loss=napo", "data.negatives=true go together"),
        ("data.negatives=true", "data.negatives=true go together"),
        ("weights.alpha=0,0.3,2", "weights.alpha=2"),
        ("weights.every_n_steps=0", "weights.every_n_steps=0"),
        ("loss._target_=uedpo.loss.nope", "cannot be imported"),
    ],
)
def test_bad_values_name_key_value_and_range(override, part):
    assert part in problems(override)


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


def test_missing_checkpoint_and_masks_are_refused(tmp_path):
    assert "no such file" in problems("resume=/nope.ckpt")
    assert "must be 0 with weights=uncertainty" in problems("model.lora.dropout=0.1")
    assert "multiple of" in problems("trainer.accumulate_grad_batches=3")
    assert "never validate" in problems("trainer.max_steps=3")
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
