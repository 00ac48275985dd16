"""Fewer probes: weights remembered from earlier steps."""

import dataclasses

import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from tests.integration.conftest import same, trained
from uedpo.data.collate import PairCollator
from uedpo.microworld.data import MicroWorldPairs
from uedpo.weights.probe import UncertaintyProbe
from uedpo.weights.reuse import WeightMemory


class Module:
    """Counts probes; scores come from the shipped model."""

    def __init__(self, model):
        self.model, self.global_step, self.probes, self.logged = model, 0, 0, {}
        self.sharded = False

    def score(self, batch, pixels=None):
        from uedpo.scoring.plain import score

        self.probes += pixels is not None
        return score(self.model, batch, pixels)

    def note(self, values):
        self.logged |= values


@pytest.fixture(scope="module")
def module(source):
    return Module(source.base())


@pytest.fixture(scope="module")
def batches(processor):
    pairs = [MicroWorldPairs("train", 5)[i] for i in range(5)]
    collate = PairCollator(processor, 100)
    return collate(pairs[:3]), collate(pairs[2:])


def visit(probe, module, batch, step):
    module.global_step, before = step, module.probes
    with torch.no_grad():
        weights = probe.weigh(batch, module.score(batch))
    return weights, module.probes - before


def probe_for(module, **options):
    probe = UncertaintyProbe(alpha=0.3, **options)
    probe.module = module
    return probe


def test_reuse_probes_a_sample_once(module, batches):
    probe = probe_for(module, reuse=True)
    first, probes = visit(probe, module, batches[0], 0)
    assert probes == 1
    again, probes = visit(probe, module, batches[0], 7)
    assert probes == 0
    assert torch.equal(again, first)
    mixed, probes = visit(probe, module, batches[1], 8)  # one sample known, two new
    assert probes == 1
    assert visit(probe, module, batches[1], 9)[1] == 0
    # the known sample keeps the weights of its first visit, whatever batch it comes in
    length = int(batches[0].mask[2].sum())
    later, _ = visit(probe, module, batches[1], 9)
    assert torch.equal(later[0, :length], first[2, :length])
    assert torch.equal(later[1:3], mixed[1:3])
    fresh, _ = visit(probe_for(module), module, batches[0], 7)
    assert not torch.equal(fresh, first)  # other noise: reuse does change weights


def test_between_probes_each_branch_weighs_its_last_mean(module, batches):
    probe = probe_for(module, every_n_steps=3)
    first, probes = visit(probe, module, batches[0], 0)
    assert probes == 1
    between, probes = visit(probe, module, batches[1], 1)
    assert probes == 0
    for side, half in enumerate(between.chunk(2)):
        mask = batches[1].mask.chunk(2)[side]
        mean = first.chunk(2)[side][batches[0].mask.chunk(2)[side]].mean()
        torch.testing.assert_close(half[mask], mean.expand(int(mask.sum())))
        assert (half[~mask] == 1).all()
    assert visit(probe, module, batches[1], 2)[1] == 0
    assert visit(probe, module, batches[1], 3)[1] == 1


def test_a_run_that_starts_without_images_probes_at_its_first_image(module, batches, processor):
    probe = probe_for(module, every_n_steps=3)
    pairs = [dataclasses.replace(MicroWorldPairs("train", 5)[i], image=None) for i in range(2)]
    text_only = PairCollator(processor, 100)(pairs)
    assert visit(probe, module, text_only, 0)[1] == 0
    weights, probes = visit(probe, module, batches[0], 1)
    assert probes == 1
    assert (weights != 1).any()
    assert visit(probe, module, batches[1], 2)[1] == 0


def test_memory_survives_a_checkpoint(module, batches, tmp_path):
    memory = WeightMemory()
    weights, _ = visit(probe_for(module), module, batches[0], 0)
    memory.keep(batches[0], weights, rows=True)
    torch.save(memory.state_dict(), tmp_path / "x")
    restored = WeightMemory()
    restored.load_state_dict(torch.load(tmp_path / "x", weights_only=True))
    assert torch.equal(restored.find(batches[0]), memory.find(batches[0]))
    assert torch.equal(restored.means_of(batches[1]), memory.means_of(batches[1]))
    assert restored.find(batches[1]) is None


@pytest.mark.parametrize("options", [{"reuse": True}, {"every_n_steps": 3}])
@pytest.mark.cases(1)
def test_resume_is_bit_identical_with_fewer_probes(train, tmp_path, options):
    probe = {"alpha": 0.3, **options}
    keep = ModelCheckpoint(
        dirpath=tmp_path,
        every_n_train_steps=1,
        save_top_k=-1,
        filename="{step}",
        save_on_train_epoch_end=False,
    )
    # ten pairs, three a step: the second epoch from step 4
    whole, losses = train("ue_dpo", probe, steps=7, callbacks=[keep])
    rest, rest_losses = train("ue_dpo", probe, steps=7, resume=str(tmp_path / "step=5.ckpt"))
    assert rest_losses == losses[5:]
    assert same(trained(whole), trained(rest))
    plain, _ = train("ue_dpo", {"alpha": 0.3}, steps=7)
    assert not same(trained(plain), trained(whole))
