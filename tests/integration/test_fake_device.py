"""A run on a GPU that is not there: see `tests.fake_device`."""

import pytest
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from pytorch_lightning.accelerators import CPUAccelerator
from pytorch_lightning.strategies import SingleDeviceStrategy

from tests import backbones
from tests.fake_device import CUDA, fake_device, place
from uedpo.callbacks.alerts import Alerts
from uedpo.callbacks.distributions import Distributions
from uedpo.callbacks.guard import Guard
from uedpo.callbacks.throughput import Throughput
from uedpo.config.build import build_module, build_weigher
from uedpo.config.overrides import conf_folder
from uedpo.data.collate import PairCollator
from uedpo.data.datamodule import PairDataModule
from uedpo.logger.csv import MetricsCSV
from uedpo.model.hf import HFModel, lora
from uedpo.report import record
from uedpo.scoring.prefix_shared import FAMILIES
from uedpo.types import PreferencePair

METHODS = sorted(path.stem for path in (conf_folder() / "method").glob("*.yaml"))
# the schedule of the noise goes to the device in the first step of a process
ONCE = "scheduling_ddpm.py"
# transformers itself places features of earlier layers of the tower, by masks
LOOKS_ITSELF = {"qwen3_vl": "modeling_qwen3_vl.py"}


class FakeAccelerator(CPUAccelerator):
    def setup_device(self, device):
        pass


class Tiny(HFModel):
    """A random model of a family in the place of files; bf16, as a real one on a GPU."""

    def __init__(self, family, dtype="bfloat16"):
        super().__init__("uedpo:micro_llava", lora=lora(r=2, alpha=2.0), dtype=dtype)
        self.family = family

    def _weights(self, bits):
        return backbones.model(self.family, dtype=getattr(torch, self.dtype))


class Data(PairDataModule):
    """Notes where the micro-batches begin in the list of what the host waited for."""

    def __init__(self, gpu, *args, **options):
        super().__init__(*args, **options)
        self.gpu, self.begins = gpu, []

    def transfer_batch_to_device(self, *args):
        self.begins.append(len(self.gpu.syncs))
        return super().transfer_batch_to_device(*args)

    def micro_batches(self):
        """Syncs of each, its way to the device and its logging with it."""
        ends = [*self.begins[1:], len(self.gpu.syncs)]
        return [self.gpu.syncs[a:b] for a, b in zip(self.begins, ends, strict=True)]


def pairs(**options):
    return [
        PreferencePair(p.id, p.image, p.prompt, p.chosen, p.rejected, ("red", "a cat"), (0.5, 0.25))
        for p in backbones.pairs(**options)
    ]


def composed(method, *more):
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return compose("config", [f"+method={method}", "loss.beta=0.1", *more])


def fit(gpu, family, folder):
    """(module, data, callback): a step of two micro-batches of one pair each, and a validation."""
    pl.seed_everything(0, verbose=False)
    module, weigher, processor = *built(family, "ue_dpo"), backbones.processor(family)
    rows = pairs(text_only=())
    data = Data(gpu, rows, rows, processor, batch_size=1, max_response_tokens=50)
    trainer = pl.Trainer(
        strategy=SingleDeviceStrategy(CUDA, accelerator=FakeAccelerator()), max_steps=1, max_epochs=1,
        accumulate_grad_batches=2, limit_val_batches=1, num_sanity_val_steps=0,
        callbacks=[weigher, Guard(), Alerts(window=2), Throughput(), Distributions(every_n_steps=100)],
        logger=MetricsCSV(str(folder)), log_every_n_steps=1, default_root_dir=folder,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(module, data)
    return module, data, weigher


def built(family, method, *more, checkpointing=False, whole=False):
    cfg = composed(method, *more)
    corruption, source = instantiate(cfg.corruption, seed=0), Tiny(family)
    source.gradient_checkpointing, source.lora = checkpointing, None if whole else source.lora
    return build_module(cfg, source, corruption), build_weigher(cfg, corruption)


def step(gpu, family, method, *more, **options):
    """One training step with its backward pass, without a trainer: (module, what the host waited for)."""
    module, weigher = built(family, method, *more, **options)
    module.configure_model()
    if weigher is not None:
        weigher.module = module
        module.set_weigher(weigher.weigh)
    batch = PairCollator(backbones.processor(family), 50, negatives=method == "napo")(pairs())
    module.to(CUDA)
    batch = batch.to(CUDA)
    gpu.syncs.clear()
    loss = module.training_step(batch, 0)
    loss.backward()
    waited = [line for line in waits(gpu.syncs) if ONCE not in line]
    assert {place(p) for p in module.parameters()} == {CUDA}
    assert loss.isfinite()
    return module, waited


def waits(syncs):
    return [f"{s.what} at {s.where}, called at {s.ours}" for s in syncs if not s.tower]


def sources(lines):
    return [line.rpartition(" ")[2].partition(":")[0] for line in lines]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.cases(2)
def test_a_run_of_every_family(family, tmp_path, monkeypatch):
    """Training, validation, traces and answers. The host waits for no micro-batch, but once for a line of the
    distributions, and at the end of a step for the guard, the alerts, and the metrics."""
    monkeypatch.setattr(record, "MAX_NEW_TOKENS", 3)
    with fake_device() as gpu:
        module, data, weigher = fit(gpu, family, tmp_path)
        assert data.train_dataloader().pin_memory
        assert gpu.kernels >= 2 * 3 * 2  # micro-batches, passes, layers
        first, last = (waits(syncs) for syncs in data.micro_batches()[:2])
        module.to(CUDA)
        files = record.records(
            module, data.collate.processor, data, weigher, report_pairs=2, setting="s", seconds=0.0,
            bars=False,
        )  # fmt: skip
    assert all("after" in row["says"] for row in files["traces.json"])
    assert files["environment.json"]["attention"] == "torch varlen_attn"
    if family in LOOKS_ITSELF:
        assert any(LOOKS_ITSELF[family] in line for line in first)
    else:
        assert sources(line for line in first if ONCE not in line) == ["weights/probe.py"]
        assert sources(last) == ["callbacks/guard.py", "callbacks/alerts.py", "uedpo/module.py"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.cases(4)
def test_a_step_of_every_method(method):
    with fake_device() as gpu:
        _, waited = step(gpu, "llava", method)
    remembers = method in ("ue_dpo_reuse",)  # keeps the weights of each row on the host
    assert len(waited) == remembers, waited


@pytest.mark.parametrize(
    "options",
    [
        "weights.signal=kl", "weights.scope=batch", "weights.center=median", "corruption.space=pixel",
        "corruption=block_mask", "corruption=blur", "corruption=blank",
    ],
)  # fmt: skip
@pytest.mark.cases(2)
def test_no_option_makes_the_host_wait(options):
    with fake_device() as gpu:
        _, waited = step(gpu, "llava", "ue_dpo", options)
    assert waited == []


def test_a_model_that_is_trained_whole_has_its_copy_there():
    with fake_device() as gpu:
        module, waited = step(gpu, "llava", "ue_dpo", whole=True)
        assert module.reference is not None
        assert any(p.grad is not None for n, p in module.policy.named_parameters() if "lm_head" in n)
    assert waited == []


@pytest.mark.parametrize("family", ["llava", "idefics3", "qwen2_5_vl"])
def test_plain_scoring_waits_for_what_transformers_looks_at(family):
    with fake_device() as gpu:
        _, waited = step(gpu, family, "ue_dpo", "scoring=plain")
    assert gpu.kernels == 0
    assert all("called at scoring/plain.py" in line for line in waited), waited


def test_checkpointing_takes_the_kernel_again_in_the_backward_pass():
    found = []
    for checkpointing in (False, True):
        with fake_device() as gpu:
            module, waited = step(gpu, "llava", "ue_dpo", checkpointing=checkpointing)
            assert waited == []
            grads = [p.grad.float() for p in module.parameters() if p.requires_grad]
            with gpu.looking():
                found.append((gpu.kernels, torch.cat([g.flatten() for g in grads]).cpu()))
    (plain, want), (again, got) = found
    assert (plain, again) == (3 * 2, 3 * 2 + 2)
    assert want.abs().max() > 0
    torch.testing.assert_close(got, want, rtol=1e-2, atol=1e-2 * want.abs().max().item())


def test_a_wait_is_found_with_its_line(monkeypatch):
    from uedpo.loss import ue_dpo

    real = ue_dpo.check_rows
    monkeypatch.setattr(
        ue_dpo, "check_rows", lambda logps, *rest: (float(logps.detach().sum()), real(logps, *rest))
    )
    with fake_device() as gpu:
        _, waited = step(gpu, "llava", "ue_dpo")
    (line,) = waited
    assert "read: _local_scalar_dense at integration/test_fake_device.py:" in line
    assert "called at loss/ue_dpo.py:" in line
