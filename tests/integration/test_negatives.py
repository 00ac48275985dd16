import gzip
import json

import pytest

from uedpo.microworld.data import NEGATIVES, MicroWorldPairs
from uedpo.microworld.negatives import NUM_VAL, negatives
from uedpo.model.hf import HFModel


@pytest.fixture(scope="module")
def rows():
    source = HFModel("uedpo:micro_llava")
    pairs = [MicroWorldPairs("train")[i] for i in (0, 1, 600)]
    return [negatives(source.base(), source.processor(), pairs, seed=seed) for seed in (0, 0)]


def test_negatives_are_a_function_of_pairs_and_seed(rows):
    assert rows[0] == rows[1]
    assert [set(row) for row in rows[0]] == [{"id", "question_only", "image_only"}] * 3
    # without an image nothing tells pairs of one prompt apart, with one everything does
    assert len({row["image_only"] for row in rows[0]}) == 3
    assert all(text.strip() for row in rows[0] for text in row.values())


def test_every_training_pair_and_the_first_validation_pairs_have_them():
    with gzip.open(NEGATIVES, "rt", encoding="utf-8") as lines:
        ids = [json.loads(line)["id"] for line in lines]
    train, val = MicroWorldPairs("train"), MicroWorldPairs("val", NUM_VAL)
    assert ids == [row["id"] for row in [*train.rows, *val.rows]]
    assert len(train[0].negatives) == len(val[NUM_VAL - 1].negatives) == 2
