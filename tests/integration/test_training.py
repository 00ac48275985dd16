import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from tests.integration.conftest import same, trained
from uedpo.data.datamodule import PairBatches
from uedpo.model.hf import HFModel


def test_alpha_zero_equals_dpo_bit_for_bit(train):
    dpo, dpo_losses = train("dpo", steps=6)
    ue, ue_losses = train("ue_dpo", {"alpha": 0.0}, steps=6)
    assert dpo_losses == ue_losses
    assert same(trained(dpo), trained(ue))


def test_alpha_changes_training_and_two_runs_are_identical(train):
    dpo, _ = train("dpo")
    first, first_losses = train("ue_dpo", {"alpha": 0.3})
    second, second_losses = train("ue_dpo", {"alpha": 0.3})
    assert first_losses == second_losses
    assert same(trained(first), trained(second))
    assert not same(trained(first), trained(dpo))


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.cases(1)
def test_resume_is_bit_identical(train, tmp_path, accumulate):
    keep = ModelCheckpoint(
        dirpath=tmp_path,
        every_n_train_steps=1,
        save_top_k=-1,
        filename="{step}",
        save_on_train_epoch_end=False,
    )
    given = {"probe": {"alpha": 0.3}, "steps": 7, "accumulate": accumulate}
    whole, losses = train("ue_dpo", **given, callbacks=[keep])
    for at in (2, 5):  # mid-epoch, and in the second epoch
        rest, rest_losses = train("ue_dpo", **given, resume=str(tmp_path / f"step={at}.ckpt"))
        assert rest_losses == losses[at * accumulate :]
        assert same(trained(whole), trained(rest))


def test_checkpoint_holds_the_adapter_only(train, tmp_path):
    keep = ModelCheckpoint(
        dirpath=tmp_path, every_n_train_steps=1, filename="x", save_on_train_epoch_end=False
    )
    train("dpo", steps=1, callbacks=[keep])
    state = torch.load(tmp_path / "x.ckpt", weights_only=True)["state_dict"]
    assert state
    assert all("lora_" in name for name in state)


def test_batches_cover_each_epoch_once_and_ranks_share_them():
    whole = list(PairBatches(10, 2, 10, seed=3))
    flat = [i for batch in whole for i in batch]
    assert sorted(flat[:10]) == sorted(flat[10:]) == list(range(10))
    assert flat[:10] != flat[10:]
    assert list(PairBatches(10, 2, 10, seed=3, start=4)) == whole[4:]
    ranks = [list(PairBatches(10, 1, 10, seed=3, rank=r, world_size=2)) for r in (0, 1)]
    assert [sorted(a + b) for a, b in zip(*ranks, strict=True)] == [sorted(b) for b in whole]
    with pytest.raises(ValueError, match="no rows"):
        PairBatches(0, 1, 1, seed=0)


def test_lora_reaches_the_language_model_only(source):
    policy, reference = source.load()
    assert reference is None
    names = [n for n, p in policy.named_parameters() if p.requires_grad]
    assert names
    assert all("language_model" in n and "lora_" in n for n in names)
    assert policy.training


def test_full_fine_tuning_keeps_a_frozen_copy():
    policy, reference = HFModel("uedpo:micro_llava").load()
    assert not any(p.requires_grad for p in reference.parameters())
    assert not any(p.requires_grad for n, p in policy.named_parameters() if "vision_tower" in n)
    assert any(p.requires_grad for n, p in policy.named_parameters() if "language_model" in n)
    with torch.no_grad():
        next(p for p in policy.parameters() if p.requires_grad).add_(1)
    assert not torch.equal(policy.get_output_embeddings().weight, reference.get_output_embeddings().weight)
