"""White space at the ends of a response is no part of it: neither trained on nor counted."""

import dataclasses

import pytest
import torch

from tests import backbones
from uedpo.data.collate import PairCollator
from uedpo.model.hf import HFModel

ENDS = ["{} ", " {}", "\n{}\n", "\t {}  \n\n"]


@pytest.mark.parametrize("ends", ENDS)
@pytest.mark.parametrize("name", ["shipped", "llava", "qwen2_vl"])
def test_white_space_at_the_ends_of_a_response_changes_no_token(ends, name):
    processor = HFModel("uedpo:micro_llava").processor() if name == "shipped" else backbones.processor(name)
    pair = backbones.pairs()[0]
    spaced = dataclasses.replace(pair, chosen=ends.format(pair.chosen), rejected=ends.format(pair.rejected))
    collate = PairCollator(processor, 64)
    plain, other = collate([pair]), collate([spaced])
    assert torch.equal(plain.tokens, other.tokens)
    assert torch.equal(plain.inputs["input_ids"], other.inputs["input_ids"])


def test_white_space_inside_a_response_stays():
    processor = backbones.processor("llava")
    pair = backbones.pairs()[0]
    inner = dataclasses.replace(pair, chosen="A  b\nc", rejected="A b c")
    batch = PairCollator(processor, 64)([inner])
    assert int(batch.mask[0].sum()) == int(batch.mask[1].sum()) + 1
