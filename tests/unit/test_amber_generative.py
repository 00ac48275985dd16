import random

import pytest

from tests.reference import scorer_twins
from uedpo.evaluation.official.amber_generative import METRICS, Description, score, vocabulary
from uedpo.evaluation.official.outcome import Undefined

RELATION = {
    "person": ["man", "woman"],
    "tree": ["leave"],
    "forest": ["tree", "leave"],
    "man": [],
    "dog": [],
    "cat": ["kitten"],
    "road": ["street", "path"],
    "light": [],
}


def table(**pairs):
    values = {frozenset(key.split("_")): value for key, value in pairs.items()}
    return lambda a, b: 1.0 if a == b else values.get(frozenset((a, b)), 0.0)


def credited(nouns, truth, hallu=(), similar=None, safe=()):
    """(hallucinated, kept, truth slots credited, hallu slots credited) of one answer."""
    scored = score([Description(nouns, truth, hallu)], RELATION, safe, similar or table())
    names = ("hallucinated_nouns", "kept_nouns", "truth_slots_credited", "hallu_slots_credited")
    return tuple(scored.counts[name] for name in names)


def test_only_words_of_the_vocabulary_are_kept_duplicates_too():
    assert credited(["Dog", "dogs", "dog", "dog", "unicorn", "kitten"], ["dog"]) == (1, 3, 1, 0)
    assert "kitten" in vocabulary(RELATION)


def test_an_associated_word_credits_its_owner():
    assert credited(["woman"], ["dog", "person"]) == (0, 1, 1, 0)
    assert credited(["street", "path"], ["road"]) == (0, 2, 1, 0)


def test_a_truth_word_that_is_also_associated_credits_the_other_slot():
    # "tree" stands first as an association of "forest", so the slot of "tree" is never reached
    assert credited(["tree"], ["tree", "forest"]) == (0, 1, 1, 0)
    assert credited(["tree", "forest"], ["tree", "forest"]) == (0, 2, 1, 0)
    assert credited(["leave", "tree"], ["tree", "forest"]) == (0, 2, 2, 0)
    assert credited(["dog", "dog"], ["dog", "dog"]) == (0, 2, 1, 0)


def test_a_safe_word_is_kept_but_neither_right_nor_wrong():
    assert credited(["light"], ["dog"], safe=["light"]) == (0, 1, 0, 0)
    assert credited(["light"], ["light"], safe=["light"]) == (0, 1, 0, 0)
    assert credited(["light"], ["dog"]) == (1, 1, 0, 0)


def test_truth_wins_over_hallu():
    assert credited(["dog"], ["dog"], ["dog"]) == (0, 1, 1, 0)


def test_a_hallu_word_similar_to_the_truth_is_no_hallucination():
    assert credited(["cat"], ["dog"], ["cat"]) == (1, 1, 0, 1)
    assert credited(["cat"], ["dog"], ["cat"], table(cat_dog=0.9)) == (0, 1, 1, 1)


def test_a_hallu_word_credits_a_similar_one_before_it_as_well():
    assert credited(["cat"], [], ["dog", "cat"], table(cat_dog=0.9)) == (1, 1, 0, 2)
    assert credited(["cat"], [], ["cat", "dog"], table(cat_dog=0.9)) == (1, 1, 0, 1)


def test_similarity_must_be_strictly_above_the_threshold():
    assert credited(["cat"], ["dog"], (), table(cat_dog=0.8)) == (1, 1, 0, 0)
    assert credited(["cat"], ["dog"], (), table(cat_dog=0.8000001)) == (0, 1, 1, 0)
    assert credited(["cat"], [], ["dog"], table(cat_dog=0.8)) == (1, 1, 0, 0)
    assert credited(["cat"], [], ["dog"], table(cat_dog=0.81)) == (1, 1, 0, 1)


def test_the_first_similar_truth_word_is_credited_associations_first():
    # dog is similar to "man" (association of person, slot 1) and to "road" (slot 0, but later in the table)
    similar = table(dog_man=0.9, dog_road=0.9)
    scored = score([Description(["dog"], ["road", "person"], [])], RELATION, [], similar)
    assert scored.counts["truth_slots_credited"] == 1
    assert credited(["dog", "road"], ["road", "person"], (), similar) == (0, 2, 2, 0)


def test_one_perfect_answer_prints_hal_of_0_1():
    scored = score([Description(["dog"], ["dog"], ["cat"])], RELATION, [], table())
    assert scored.metrics == {"CHAIR": 0.0, "Cover": 99.9, "Hal": 0.1, "Cog": 0.0}


def test_empty_answers_hallucinate_nothing():
    rows = [Description([], ["dog"], ["cat"])] * 1000
    assert score(rows, RELATION, [], table()).metrics == {"CHAIR": 0.0, "Cover": 0.0, "Hal": 0.0, "Cog": 0.0}
    with pytest.raises(Undefined):
        score(rows, RELATION, [], table(), "strict")


def test_totals_are_pooled():
    rows = [Description(["dog", "cat", "cat"], ["dog"], []), Description(["dog"], ["dog", "cat"], ["man"])]
    metrics = score(rows, RELATION, [], table()).metrics
    assert metrics["CHAIR"] == round(2 / 4.001 * 100, 1)
    assert metrics["Cover"] == round(2 / 3.001 * 100, 1)
    assert metrics["Hal"] == round(100 - 1 / 2.001 * 100, 1)


def test_score_agrees_with_its_twin_on_random_annotations():
    rng = random.Random(3)
    words = [f"w{i}" for i in range(25)]
    for _ in range(400):
        relation = {w: rng.choices(words, k=rng.randrange(4)) for w in words}
        pairs = {frozenset(rng.choices(words, k=2)): rng.choice((0.5, 0.8, 0.9)) for _ in range(60)}

        def similar(a, b, pairs=pairs):
            return 1.0 if a == b else pairs.get(frozenset((a, b)), 0.0)

        safe = rng.choices(words, k=2)
        rows = [
            tuple(rng.choices([*words, "x"], k=rng.randrange(7)) for _ in range(1))
            + tuple(rng.choices(words, k=rng.randrange(5)) for _ in range(2))
            for _ in range(rng.randrange(1, 12))
        ]
        metrics = score([Description(*row) for row in rows], relation, safe, similar).metrics
        assert tuple(metrics[m] for m in METRICS) == scorer_twins.amber_generative(
            rows, relation, safe, similar
        )
