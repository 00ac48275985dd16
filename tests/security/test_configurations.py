"""Configurations that were not read closely: what they name and hold is refused before Hydra acts on it."""

import re

import pytest
from hydra.errors import HydraException
from omegaconf import OmegaConf

from tests.config.test_validate import composed, problems
from uedpo.config.overrides import check_overrides, check_own_config
from uedpo.config.trust import target_problem, trust_problems
from uedpo.config.validate import validate
from uedpo.errors import ConfigError

TARGETS = [
    "os.system",
    "logging.os.system",
    "posix.system",
    "subprocess.run",
    "subprocess.Popen",
    "builtins.exec",
    "builtins.eval",
    "builtins.open",
    "builtins.__import__",
    "shutil.rmtree",
    "pathlib.Path.touch",
    "pathlib.Path",
    "pathlib.Path.write_text",
    "pickle.loads",
    "pickle.load",
    "torch.load",
    "torch.hub.load",
    "torch.jit.load",
    "torch.serialization.load",
    "torch.optim.Optimizer.load_state_dict",
    "torch.optim.optimizer.functools.partial",
    "joblib.load",
    "numpy.load",
    "runpy.run_path",
    "runpy.run_module",
    "importlib.import_module",
    "code.interact",
    "ctypes.CDLL",
    "webbrowser.open",
    "urllib.request.urlopen",
    "urllib.request.urlretrieve",
    "socket.create_connection",
    "requests.get",
    "functools.partial",
    "operator.methodcaller",
    "yaml.unsafe_load",
    "timeit.timeit",
    "antigravity",
    "evil_module.run",
    "evil_module",
    "uedpo.run.os.system",
    "uedpo.results.store.subprocess.run",
    "uedpo.run.write_json",
    "uedpo.results.store.append_row",
    "uedpo.data.jsonl.Path.touch",
    "uedpo.data.jsonl.functools.partial",
    "uedpo.data.rows.os.remove",
    "uedpo.data.jsonl.JsonlPairs.__init__.__globals__.get",
    "uedpo.run.main.__globals__",
    "uedpo.model.hf.AutoConfig.from_pretrained",
    "uedpo.data",
    "uedpo.data.images.FORMATS",
    "pytorch_lightning.LightningModule.load_from_checkpoint",
    "pytorch_lightning.trainer.trainer.os.system",
    "transformers.pipeline",
    "transformers.AutoModel.from_pretrained",
    "transformers.image_utils.load_image",
    "transformers.dynamic_module_utils.get_class_from_dynamic_module",
    "transformers.utils.hub.cached_file",
    "diffusers.DiffusionPipeline.from_pretrained",
    "peft.PeftModel.from_pretrained",
    "peft.utils.save_and_load.torch.load",
    "hydra.utils.call",
    "hydra.utils.instantiate",
    "hydra.utils.get_method",
    "hydra._internal.utils._locate",
    "hydra._internal.core_plugins.basic_launcher.logging.os.system",
    "${oc.env:HOME}",
]
TARGETS += ["", 5, None, ["os.system"]]


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.cases(8)
def test_hostile_targets_are_refused(marker, target):
    assert target_problem(target)
    places = ["callbacks.x", "model.lora", "weights", "data.train"]
    config = composed()
    OmegaConf.set_struct(config, False)
    for place in places:
        changed = config.copy()
        OmegaConf.update(changed, place, {"_target_": target, "command": f"touch {marker}"}, force_add=True)
        with pytest.raises(ConfigError) as caught:
            validate(changed)
        assert f"{place}._target_" in str(caught.value)


def test_targets_hide_nowhere(marker):
    config = composed()
    OmegaConf.set_struct(config, False)
    evil = {"_target_": "evil_module.run"}
    good = "uedpo.callbacks.throughput.Throughput"
    places = {"callbacks.x": {"_target_": good, "deep": [1, {"a": [evil]}]}}
    places |= {"logger.x": {"a": {"b": {"c": evil}}}, "corruption.k": evil}
    for key, value in places.items():
        changed = config.copy()
        OmegaConf.update(changed, key, value, force_add=True)
        assert any("evil_module.run" in p for p in trust_problems(changed)), key


def test_what_the_project_itself_names_is_allowed():
    for name in [
        "torch.optim.AdamW",
        "pytorch_lightning.callbacks.ModelCheckpoint",
        "uedpo.loss.dpo.dpo_loss",
        "pytorch_lightning.loggers.WandbLogger",
        "transformers.optimization.get_scheduler",
        "uedpo.sweep.summary.SweepSummary",
        "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
        "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher",
    ]:
        assert target_problem(name) is None, name


def test_a_package_of_ones_own_is_named_on_the_command_line(tmp_path, monkeypatch):
    (tmp_path / "my_losses.py").write_text("import os\n\n\ndef loss(beta: float):\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert target_problem("my_losses.loss")
    assert target_problem("my_losses.loss", ["my_losses"]) is None
    assert target_problem("my_losses.os.system", ["my_losses"])
    config = composed("allow_packages=[my_losses]")
    assert trust_problems(config) == trust_problems(config, ["seed=1", "allow_packages=[my_losses]"]) == []
    assert "only the command line may set it" in trust_problems(config, ["seed=1"])[0]
    for name in ("os", "subprocess", "torch", "pickle", "a.b", "1"):
        assert trust_problems(composed(f"allow_packages=['{name}']")), name


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("name=${oc.env:HOME}", "${oc.env:...} is not resolved here"),
        ("hydra.run.dir=${oc.env:HOME}", "hydra.run.dir: ${oc.env:...}"),
        ("+hydra.job.env_set.LD_PRELOAD=/tmp/evil.so", "does not change the environment"),
        ("+hydra.callbacks.x._target_=os.system", "hydra.callbacks.x._target_='os.system': is not allowed"),
        ("hydra.launcher._target_=os.system", "hydra.launcher._target_='os.system': is not allowed"),
        ("++hydra.job_logging.handlers.file.class=logging.handlers.HTTPHandler", "must be one of"),
        ("++hydra.job_logging.handlers.console.stream=ext://os.system", "must be ext://sys.stdout"),
        ("+model.trust_remote_code=true", "model.trust_remote_code=True: must be False"),
        ("+data.train.weights_only=false", "must be True"),
        ("+callbacks.x.custom_pipeline=evil", "must be None"),
    ],
)
def test_hostile_overrides_are_refused(marker, override, part):
    assert part in problems(override)


@pytest.mark.parametrize(
    ("node", "part"),
    [
        ({"a": "${oc.${b}:HOME}"}, "a: ${"),
        ({"a": ["x ${ oc.env : HOME }"]}, "a.0: ${oc.env:...}"),
        ({"a": "${oc.create:{_target_:os.system}}"}, "a: ${oc.create:...}"),
        ({"a": "${oc.decode:${b}}"}, "is not resolved here"),
        ({"hydra": {"job_logging": {"handlers": {"x": {"()": "os.system"}}}}}, "is not called from"),
        ({"hydra": {"searchpath": ["pkg://evil_module"]}}, "would import a package"),
    ],
)
def test_hostile_nodes_are_refused(node, part):
    assert part in "".join(trust_problems(OmegaConf.create(node)))


def test_a_hostile_configuration_file_is_refused_before_hydra_acts(marker, tmp_path):
    folder = tmp_path / "conf"
    folder.mkdir()
    text = OmegaConf.to_yaml(composed())
    own = "allow_packages: [evil_module]\n"
    for name, change in {
        "callback": "hydra:\n  callbacks:\n    x:\n      _target_: evil_module.run\n",
        "own": "hydra:\n  callbacks:\n    x:\n      _target_: evil_module.run\n",
        "env": "hydra:\n  job:\n    env_set:\n      PATH: /tmp\n",
    }.items():
        body = text.replace("allow_packages: []\n", own) if name == "own" else text
        (folder / f"{name}.yaml").write_text(body + change)
        with pytest.raises(ConfigError):
            check_own_config([], str(folder), name, None)
    (folder / "fine.yaml").write_text(text)
    check_own_config(["seed=1,2"], str(folder), "fine", None)
    with pytest.raises(ConfigError, match="would import a package"):
        check_own_config([], "pkg://evil_module", "config", None)
    group = folder / "loss"
    group.mkdir()
    (group / "evil.yaml").write_text("_target_: evil_module.run\n")
    with pytest.raises(ConfigError, match=r"loss\._target_='evil_module\.run'"):
        check_own_config(["loss=dpo,evil", "weights=uniform"], None, None, str(folder))


SWEPT = {
    "+hydra.job.env_set.LD_PRELOAD": ("/tmp/evil.so", "does not change the environment"),
    "hydra.job.env_set.PATH": ("a,/tmp", "Could not override"),
    "seed,more": ("1", "cannot be read"),
    "++hydra.job_logging.handlers.file.class": ("logging.handlers.HTTPHandler", "must be one of"),
    "++hydra.job_logging.root.level": ("INFO", ""),
    "++hydra.job_logging.handlers.console.stream": (
        "ext://sys.stdout,ext://os.system",
        "must be ext://sys.std",
    ),
    "+callbacks.x._target_": ("evil_module.run", "is not allowed"),
    "hydra/launcher": ("basic", ""),
    "+hydra.callbacks.y._target_": ("evil_module.run", "is not allowed"),
    "name": ("${oc.env:HOME}", "${oc.env:...} is not resolved here"),
    "+data.weights_only": ("true,false", "must be True"),
    "weights.token": ("hunter2hunter2", "looks like a secret"),
    "seed": ("choice(0,1)", ""),
    "weights.alpha": ("interval(0.1,0.3)", ""),
}


@pytest.mark.parametrize("key", SWEPT)
@pytest.mark.cases(3)
def test_what_a_file_sweeps_is_checked_as_on_the_command_line(marker, tmp_path, key, monkeypatch):
    value, part = SWEPT[key]
    folder = tmp_path / "conf"
    (folder / "experiment").mkdir(parents=True)
    params = {"hydra": {"mode": "MULTIRUN", "sweeper": {"params": {key: value}}}}
    own = OmegaConf.to_yaml(OmegaConf.create(params))
    (folder / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{own}")
    (folder / "fine.yaml").write_text(OmegaConf.to_yaml(composed()) + own)
    ways = {
        "name": lambda: check_own_config([], str(folder), "fine", None),
        "dir": lambda: check_own_config(["+experiment=mine"], None, None, str(folder)),
    }
    for call in ways.values():
        if part:
            with pytest.raises((ConfigError, HydraException), match=re.escape(part)):
                call()
        else:
            call()


def test_yaml_tags_do_not_construct(marker, tmp_path):
    (tmp_path / "x.yaml").write_text(f"a: !!python/object/apply:os.system ['touch {marker}']\n")
    with pytest.raises(Exception, match="could not determine a constructor"):
        check_own_config([], str(tmp_path), "x", None)


def test_plain_configurations_pass():
    check_overrides(["seed=1"])


def test_a_key_that_is_there_twice_is_one_line(tmp_path):
    (tmp_path / "mine.yaml").write_text(OmegaConf.to_yaml(composed()) + "callbacks: {}\n")
    with pytest.raises(ConfigError, match="found duplicate key callbacks") as caught:
        check_own_config([], str(tmp_path), "mine", None)
    assert len(str(caught.value).splitlines()) == 1
