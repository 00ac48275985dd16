import random

import pytest

from tests.reference import scorer_twins
from uedpo.evaluation.official.mmhal import TYPES, rating, score
from uedpo.evaluation.official.outcome import Undefined


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        ("Rating: 4, somewhat informative", 4),
        ("- RATING: 6", 6),
        ("Rating: 4.5", 4),
        ("Rating: 10", 1),
        ("Rating: 3 ... so rating: 3", 3),
        ("overrating: 2", 2),
        ("**Rating:** 4", None),
        ("Rating:4", None),
        ("Rating:  4", None),
        ("Rating: 7", None),
        ("Rating: 3 or Rating: 4", None),
        ("Rating: [5]", None),
        ("", None),
        ("The response is", None),
    ],
)
def test_rating_needs_one_literal_hit(reply, value):
    assert rating(reply) == value


def test_score_counts_unparsable_as_hallucinated_zero():
    scored = score({0: "Rating: 6", 1: "Rating: 3", 2: "Rating: 2", 3: "Rating:5"})
    assert scored.metrics["average_score"] == 11 / 4
    assert scored.metrics["hallucination_rate"] == 2 / 4
    assert scored.metrics["informativeness"] == (3 + 0 + 2 + 0) / 4 / 3 * 100
    assert scored.counts["unparsable_ratings"] == 1
    assert scored.printed["hallucination_rate"] == "0.500"
    assert scored.printed["hallucination_rate (LLaVA-RLHF)"] == "0.50"
    assert scored.printed["average_score"] == "2.75"


def test_type_of_a_row_is_its_position():
    replies = {i: f"Rating: {3 if i % 8 == 2 else 1}" for i in range(96)}
    scored = score(replies)
    assert scored.metrics["average_score/comparison"] == 3.0
    assert scored.metrics["average_score/other"] == 1.0
    assert [scored.counts[f"{t}/rows"] for t in TYPES] == [12] * 8
    replies[2] = "Rating: 4"
    assert score(replies).printed["average_score/comparison"] == "3.08"  # 37/12, not "3.083"
    partial = score({0: "Rating: 5", 9: "Rating: 1"})
    assert partial.metrics["average_score/attribute"] == 5.0
    assert partial.metrics["average_score/adversarial"] == 1.0
    assert partial.metrics["average_score/other"] is None


def test_three_is_no_hallucination():
    assert score({0: "Rating: 3"}).metrics["hallucination_rate"] == 0.0
    assert score({0: "Rating: 2"}).metrics["hallucination_rate"] == 1.0


def test_strict_refuses_replies_without_one_whole_rating():
    assert score({0: "Rating: 4.", 1: "rating: 0, bad"}, "strict").metrics["average_score"] == 2.0
    for reply in ("Rating: 10", "Rating: 4.5", "Rating:4", "Rating: 1 or rating: 2", ""):
        with pytest.raises(Undefined, match="reply 7"):
            score({0: "Rating: 4", 7: reply}, "strict")
    with pytest.raises(Undefined):
        score({})


def test_score_agrees_with_its_twin_on_random_replies():
    rng = random.Random(2)
    pieces = ["Rating: ", "rating:", "RATING: ", "**", *"0123456789", " ", "4.5", "\n", "none"]
    for _ in range(2000):
        replies = ["".join(rng.choices(pieces, k=rng.randrange(6))) for _ in range(rng.randrange(1, 20))]
        metrics = score(dict(enumerate(replies))).metrics
        found = tuple(metrics[k] for k in ("average_score", "hallucination_rate", "informativeness"))
        assert found == scorer_twins.mmhal(replies)
