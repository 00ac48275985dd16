import functools

import pytest
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from uedpo.config.build import build_module, build_weigher
from uedpo.config.overrides import conf_folder
from uedpo.corruption.diffusion import Diffusion
from uedpo.corruption.spatial import Blank
from uedpo.data.collate import PairCollator
from uedpo.data.datamodule import PairDataModule
from uedpo.errors import InputError
from uedpo.loss import ON_REQUEST, tpo_loss
from uedpo.microworld.data import MicroWorldPairs
from uedpo.module import PreferenceModule
from uedpo.optim import adamw_cosine
from uedpo.scoring import plain
from uedpo.weights.probe import UncertaintyProbe

# those that differ in `weights.control` or `weights.signal` share the code of ue_dpo
METHODS = ("dpo", "ipo", "dpo_sft", "ue_dpo", "tpo", "v_dpo", "mdpo", "napo", "rlhf_v", "opa_dpo", "da_dpo")


def composed(method):
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return compose("config", [f"+method={method}", "model.lora.r=4", "loss.beta=0.1"])


@pytest.mark.parametrize("steps", [6, pytest.param(50, marks=pytest.mark.slow)])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_without_nan(method, steps, source, processor, tmp_path):
    cfg = composed(method)
    pl.seed_everything(0, verbose=False)
    corruption = instantiate(cfg.corruption, seed=0)
    pairs = MicroWorldPairs("train", 40)
    data = PairDataModule(pairs, pairs, processor, batch_size=1, negatives=cfg.data.negatives)
    module, weigher = build_module(cfg, source, corruption), build_weigher(cfg, corruption)
    losses = []

    class Record(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            losses.append(outputs["loss"].item())

    trainer = pl.Trainer(
        accelerator="cpu", max_steps=steps, max_epochs=2, logger=False, limit_val_batches=0,
        callbacks=[Record(), *([weigher] if weigher else [])], enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(module, data)
    assert len(losses) == steps
    assert torch.tensor(losses).isfinite().all()
    trained = [p for p in module.parameters() if p.requires_grad]
    assert all(p.isfinite().all() for p in trained)
    assert any(p.abs().max() > 0 for n, p in module.named_parameters() if "lora_B" in n)


@pytest.fixture(scope="module")
def batch(processor):
    return PairCollator(processor, 100)([MicroWorldPairs("val", 3)[i] for i in range(3)])


def asking(loss, source, corruption):
    module = PreferenceModule(
        source, functools.partial(loss, beta=0.1), functools.partial(adamw_cosine, lr=1e-3),
        corruption=corruption,
    )  # fmt: skip
    module.configure_model()
    return module


def everything(
    policy, reference, mask, weights, *, beta, corrupted_policy_logps, corrupted_reference_logps,
    policy_sensitivity, reference_sensitivity, similarity, sample_weights,
):  # fmt: skip
    raise NotImplementedError


def test_a_loss_gets_what_it_asks_for(source, batch):
    module = asking(everything, source, Diffusion(seed=1))
    assert set(module.requested_inputs) == set(ON_REQUEST)
    policy, reference = module.score(batch), module.score_reference(batch)
    got = module.loss_inputs(batch, policy, reference)
    assert set(got) == set(ON_REQUEST) - {"sample_weights"}  # these rows have none
    pixels = Diffusion(seed=1)(batch.pixel_values, batch.ids, 0)
    noisy = module.scorer.score(module.policy, batch, pixels)
    torch.testing.assert_close(noisy.logps, plain.score(module.policy, batch, pixels).logps)
    assert torch.equal(got["corrupted_policy_logps"], noisy.logps)
    assert torch.equal(got["policy_sensitivity"], policy.target_logits - noisy.target_logits)
    # an untouched adapter: policy and reference see the very same corrupted image
    assert torch.equal(got["corrupted_policy_logps"], got["corrupted_reference_logps"])
    assert got["policy_sensitivity"].requires_grad
    assert not got["reference_sensitivity"].requires_grad
    assert (got["similarity"][:3] == 1).all()
    assert (got["similarity"][3:] < 1).any()


def test_only_what_is_asked_is_computed(source, batch):
    module = asking(tpo_loss, source, Blank())
    got = module.loss_inputs(batch, module.score(batch), module.score_reference(batch))
    assert set(got) == {"policy_sensitivity", "reference_sensitivity"}
    with pytest.raises(ValueError, match="give a corruption"):
        asking(tpo_loss, source, None)


def test_further_negatives_become_rows(processor):
    pairs = [MicroWorldPairs("train", 3)[i] for i in range(3)]
    batch = PairCollator(processor, 100, negatives=True)(pairs)
    assert batch.num_responses == 4
    texts = [p.chosen for p in pairs] + [p.rejected for p in pairs]
    texts += [p.negatives[kind] for kind in (0, 1) for p in pairs]
    for row, text in enumerate(texts):
        ids = batch.tokens[row][batch.mask[row]]
        assert processor.tokenizer.decode(ids[:-1]).strip() == text.strip()
    plain = PairCollator(processor, 100)(pairs)
    assert plain.num_responses == 2
    bare = [type(p)(p.id, p.image, p.prompt, p.chosen, p.rejected) for p in pairs]
    with pytest.raises(InputError, match="no further negatives"):
        PairCollator(processor, 100, negatives=True)(bare)


@torch.no_grad()
@pytest.mark.parametrize("signal", ["entropy", "surprisal", "margin"])
def test_probe_free_weights_never_score_the_corrupted_image(source, batch, signal):
    module = asking(tpo_loss, source, Blank())
    probe = UncertaintyProbe(alpha=0.5, signal=signal, select="signal")
    assert not probe.needs_probe
    signals = probe.signals(batch, module.score(batch), None)
    assert (signals.weights[:3][batch.mask[:3]] >= 1).all()
    assert (signals.weights[3:][batch.mask[3:]] <= 1).all()
    assert signals.selected.any(1).all()
    assert UncertaintyProbe(alpha=0.5, signal=signal).needs_probe
    assert UncertaintyProbe(alpha=0.5, signal="kl", select="all").needs_probe


@torch.no_grad()
@pytest.mark.parametrize("branch", ["chosen", "rejected"])
def test_one_branch_leaves_the_other_at_one(source, batch, branch):
    module = asking(tpo_loss, source, Blank())
    probe = UncertaintyProbe(alpha=0.5, branches=branch)
    clear, noisy = module.score(batch), module.score(batch, probe.corrupt(batch, 0))
    sides = dict(
        zip(("chosen", "rejected"), probe.signals(batch, clear, noisy).weights.chunk(2), strict=True)
    )
    assert (sides.pop(branch) != 1).any()
    assert all((side == 1).all() for side in sides.values())
