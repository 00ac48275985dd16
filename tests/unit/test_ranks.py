"""Which rank a process is, as Lightning sees it, and what several ranks are refused."""

import sys
from types import SimpleNamespace

import pytest
from pytorch_lightning.plugins.environments import SLURMEnvironment, TorchElasticEnvironment

import uedpo.run
from tests.config.test_validate import composed, problems
from uedpo.config.overrides import check_overrides
from uedpo.data.datamodule import PairDataModule
from uedpo.errors import ConfigError, InputError
from uedpo.runtime.ranks import folder_problems, gpu_problems, launch_problems, launched, rank, world_size

TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "GROUP_RANK": "1"}
SRUN = {
    "SLURM_NTASKS": "8", "SLURM_NTASKS_PER_NODE": "4", "SLURM_PROCID": "6", "SLURM_LOCALID": "2",
    "SLURM_NODEID": "1", "SLURM_JOB_NAME": "train",
}  # fmt: skip
FSDP = ["trainer=ddp_cpu", "trainer.strategy=fsdp"]


@pytest.fixture
def env(monkeypatch):
    """env(variables, ...) sets these and no other that a launcher would."""

    def go(*groups):
        for name in (*TORCHRUN, *SRUN):
            monkeypatch.delenv(name, raising=False)
        for name, value in {k: v for group in groups for k, v in group.items()}.items():
            monkeypatch.setenv(name, value)

    return go


@pytest.mark.parametrize(
    ("groups", "by", "theirs"),
    [
        ([TORCHRUN], "torchrun", TorchElasticEnvironment),
        ([SRUN], "srun", SLURMEnvironment),
        ([SRUN, TORCHRUN], "torchrun", TorchElasticEnvironment),
    ],
    ids=["torchrun", "srun", "torchrun within a job of SLURM"],
)
def test_rank_is_the_one_lightning_takes(env, groups, by, theirs):
    env(*groups)
    assert theirs.detect()
    found = launched()
    assert found.by == by
    assert (rank(), world_size()) == (theirs().global_rank(), theirs().world_size())
    assert found.size == 8


def test_without_a_launcher_there_is_one_rank_or_those_that_lightning_starts(env):
    env()
    assert (launched(), rank(), world_size()) == (None, 0, 1)
    env({"LOCAL_RANK": "1"})
    assert rank() == 1
    env(SRUN, {"SLURM_JOB_NAME": "interactive"})
    assert not SLURMEnvironment.detect()
    assert (launched(), rank()) == (None, 0)


def test_as_many_processes_as_the_configuration_has_devices(env):
    env(TORCHRUN)
    assert launch_problems({"devices": 4, "num_nodes": 2}) == []
    (line,) = launch_problems({"devices": 4, "num_nodes": 1})
    assert "4 ranks, but torchrun started 8" in line
    env()
    assert launch_problems({"devices": 4, "num_nodes": 1}) == []
    assert "start the run with torchrun or srun" in launch_problems({"devices": 4, "num_nodes": 2})[0]


def test_gpus_that_are_not_there_are_named_before_anything_loads(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    assert gpu_problems({"accelerator": "gpu", "devices": 1}) == gpu_problems({"accelerator": "cpu"}) == []
    (line,) = gpu_problems({"accelerator": "gpu", "devices": 4})
    assert "trainer.devices=4: torch sees 1 GPUs here" in line
    assert "trainer=cpu" in line


@pytest.mark.parametrize(
    ("pairs", "ranks", "sharded", "fits"),
    [(1, 1, False, True), (1, 2, False, False), (3, 2, False, True), (3, 2, True, False), (4, 2, True, True)],
)
def test_every_rank_needs_validation_pairs(pairs, ranks, sharded, fits):
    data = SimpleNamespace(val=[None] * pairs)
    if fits:
        PairDataModule.check_ranks(data, ranks, sharded)
        return
    with pytest.raises(InputError, match=f"{pairs} validation pairs for {ranks} ranks"):
        PairDataModule.check_ranks(data, ranks, sharded)


def test_ranks_need_one_named_directory(env):
    env(SRUN)
    assert "add hydra.run.dir=DIR" in folder_problems(["trainer=ddp"])[0]
    assert folder_problems(["trainer=ddp", "hydra.run.dir=x"]) == []
    env()
    assert folder_problems(["trainer=ddp"]) == []


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        (["trainer.devices=2"], "several ranks need trainer.strategy=ddp or fsdp"),
        (["trainer=ddp_cpu", "weights.scope=batch"], "weights.scope=batch: with several ranks"),
        (["trainer=ddp_cpu", "+method=mean_one"], "weights.control=mean_one: with several ranks"),
        (["trainer=ddp_cpu", "+method=constant"], "weights.control=constant: with several ranks"),
        (["trainer=ddp_cpu", "+method=ue_dpo_every4"], "weights.every_n_steps=4: with several ranks"),
        (["trainer=ddp_cpu", "+method=ue_dpo_reuse"], "weights.reuse=True: with several ranks"),
        (["trainer=ddp_cpu", "global_batch=16"], "16 x 1 x 2 x 1 = 32; change one of them"),
        (["trainer=ddp_cpu", "trainer.strategy=deepspeed"], "must be 'auto', 'ddp' or 'fsdp'"),
        (["trainer.strategy=fsdp"], "trainer.strategy=fsdp: needs several devices"),
        ([*FSDP, "model.lora=null"], "model.lora=null trains the head too"),
        ([*FSDP, "model.train_projector=true", "scoring=plain"], "set model.train_projector=false"),
        ([*FSDP, "reference_cache=some"], "has not been tried with a stored reference"),
        ([*FSDP, "callbacks=periodic"], "rank 0 cannot evaluate alone"),
        ([*FSDP, "weights.scope=batch"], "weights.scope=batch: with several ranks"),
    ],
)
def test_what_several_ranks_cannot_do_is_refused(overrides, part):
    text = problems(*overrides)
    assert part in text
    assert text.startswith("1 problem ")


def test_what_is_of_each_response_goes_with_several_ranks():
    for more in ("seed=1", "trainer.strategy=fsdp", "weights.control=shuffled", "+method=dpo", "+method=tpo"):
        check_overrides(["trainer=ddp_cpu", more])
    assert composed("trainer=ddp_cpu").trainer.strategy == "ddp"


def test_a_wrong_launch_stops_before_anything_is_written(env, tmp_path, monkeypatch, capsys):
    env(TORCHRUN)
    with pytest.raises(ConfigError, match="2 ranks, but torchrun started 8"):
        uedpo.run.run(composed("trainer=ddp_cpu"))  # before Hydra is asked where to
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["run", "trainer=ddp_cpu"])
    for module in (uedpo.run.preemption, uedpo.run.redact):
        monkeypatch.setattr(module, "install", lambda: None)
    with pytest.raises(SystemExit) as stopped:
        uedpo.run.main()
    assert stopped.value.code == 2
    assert "add hydra.run.dir=DIR" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
