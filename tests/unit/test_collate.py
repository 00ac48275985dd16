"""What processors say beside ids and pixels reaches the batch; padding never changes the noise."""

import pytest
import torch

from uedpo.corruption.diffusion import corrupt
from uedpo.data.collate import PairCollator
from uedpo.errors import InputError
from uedpo.types import PreferencePair

IMAGE = 9


class Tokenizer:
    eos_token_id, pad_token_id = 1, 0

    def __call__(self, text, add_special_tokens=False):
        one = isinstance(text, str)
        return {"input_ids": characters(text) if one else [characters(t) for t in text]}

    def decode(self, ids):
        return "".join(map(chr, ids))


def characters(text):
    return [ord(c) for c in text]


class GridProcessor:
    """Speaks as Qwen's processors do: patches of an image in one row, a grid, token types."""

    tokenizer = Tokenizer()

    def apply_chat_template(self, messages, add_generation_prompt):
        return "".join(m["content"][-1]["text"] + ">" for m in messages)

    def __call__(self, text, return_tensors, images=None):
        if images is None:
            return self.text_only(text)
        rows, columns = images[0]
        ids = [5] * 2 + [IMAGE] * (rows * columns // 4) + [6] + characters(text[0])
        return {
            "input_ids": torch.tensor([ids]),
            "attention_mask": torch.ones(1, len(ids)),
            "mm_token_type_ids": (torch.tensor([ids]) == IMAGE).long(),
            "pixel_values": torch.full((rows * columns, 3), float(rows)),
            "image_grid_thw": torch.tensor([[1, rows, columns]]),
        }

    def text_only(self, text):
        ids = torch.tensor([characters(text[0])])
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


class PatchProcessor(GridProcessor):
    """Speaks as LLaVA-NeXT's processor does: a number of patches that depends on the image."""

    def __call__(self, text, return_tensors, images=None):
        if images is None:
            return self.text_only(text)
        rows, columns = images[0]
        ids = torch.tensor([[5, IMAGE, 6, *characters(text[0])]])
        return {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "pixel_values": torch.full((1, rows, 3, 2, 2), float(rows)),
            "image_sizes": torch.tensor([[rows, columns]]),
        }


def pair(name, image):
    return PreferencePair(name, image, "prompt", "yes", "no")


@pytest.fixture
def pairs():
    return [pair("a", (2, 4)), pair("b", None), pair("c", (4, 4))]


def test_grids_and_token_types_are_carried_with_text_only_rows_between(pairs):
    batch = PairCollator(GridProcessor(), 9)(pairs)
    assert batch.image_inputs["image_grid_thw"].tolist() == [[1, 2, 4], [0, 0, 0], [1, 4, 4]]
    assert batch.pixel_lengths == [8, 0, 16]
    assert batch.pixel_values.shape == (3, 16, 3)
    assert (batch.pixel_values[0, :8] == 2).all()
    assert (batch.pixel_values[0, 8:] == 0).all()
    types = batch.inputs["mm_token_type_ids"]
    assert torch.equal(types.bool(), batch.inputs["input_ids"] == IMAGE)
    assert types.sum(1).tolist() == [2, 0, 4] * 2


def test_patches_and_sizes_are_carried(pairs):
    batch = PairCollator(PatchProcessor(), 9)(pairs)
    assert batch.image_inputs["image_sizes"].tolist() == [[2, 4], [0, 0], [4, 4]]
    assert batch.pixel_values.shape == (3, 4, 3, 2, 2)
    assert batch.pixel_lengths == [2, 0, 4]


def test_images_of_different_sizes_are_refused_where_the_model_stacks_them(pairs):
    class Whole(GridProcessor):
        def __call__(self, text, return_tensors, images=None):
            if images is None:
                return self.text_only(text)
            return self.text_only(text) | {"pixel_values": torch.ones(1, 3, *images[0])}

    same = PairCollator(Whole(), 9)([pairs[0], pairs[1], pair("d", (2, 4))])
    assert same.pixel_values.shape == (3, 3, 2, 4)
    assert same.pixel_lengths is None
    with pytest.raises(InputError, match=r"^row c: its pixels are \[3, 4, 4\].*data.batch_size=1"):
        PairCollator(Whole(), 9)(pairs)


def test_text_only_batches_have_no_pixels():
    batch = PairCollator(GridProcessor(), 9)([pair("b", None)])
    assert batch.pixel_values is None
    assert batch.image_inputs == {}
    assert "mm_token_type_ids" not in batch.inputs


def test_noise_does_not_depend_on_padding(pairs):
    collate = PairCollator(GridProcessor(), 9)
    together, alone = collate(pairs), collate(pairs[:1])
    noisy, own = (corrupt(b.pixel_values, b.ids, lengths=b.pixel_lengths) for b in (together, alone))
    assert torch.equal(noisy[0, :8], own[0])
    assert (noisy[0, 8:] == 0).all()
