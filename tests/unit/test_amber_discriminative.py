import random

import pytest

from tests.reference import scorer_twins
from uedpo.evaluation.official.amber_discriminative import METRICS, SECTIONS, Question, baselines, score
from uedpo.evaluation.official.outcome import Undefined

STATE, NUMBER, ACTION, EXISTENCE = (
    f"discriminative-{kind}"
    for kind in ("attribute-state", "attribute-number", "attribute-action", "hallucination")
)
RELATION, RELATION_NO = "discriminative-relation", "relation"


def questions(*rows):
    return [Question(kind, truth == "yes", answer) for kind, truth, answer in rows]


@pytest.mark.parametrize("answer", ["yes", "no", "Yes.", "No.", " Yes", "No ", "No, there is none", "", "NO"])
def test_only_the_exact_words_count(answer):
    for truth in ("yes", "no"):
        metrics = score(questions((STATE, truth, answer))).metrics
        assert metrics["Accuracy"] == metrics["Precision"] == metrics["Recall"] == 0.0
        assert metrics["no_ratio"] == 0.0


def test_one_right_no_scores_what_its_denominator_of_1_001_makes():
    metrics = score(questions((EXISTENCE, "no", "No"))).metrics
    assert metrics["Accuracy"] == metrics["Existence/Recall"] == 99.9  # 1/1.001
    assert metrics["F1"] == 99.9  # 2 * .999^2 / (1.998 + .0001)
    assert metrics["Existence/F1"] == 99.9
    assert metrics["Attribute/Accuracy"] == metrics["Relation/F1"] == 0.0


def test_f1_of_existence_adds_ten_times_as_much():
    rows = [(EXISTENCE, "no", "No")] * 499 + [(EXISTENCE, "no", "Yes")] * 501
    rows += [(NUMBER, "no", "No")] * 499 + [(NUMBER, "no", "Yes")] * 501
    metrics = score(questions(*rows)).metrics
    assert (metrics["Existence/F1"], metrics["Number/F1"]) == (66.5, 66.6)


def test_f1_is_made_of_rounded_precision_and_recall():
    metrics = score(questions((STATE, "no", "No"), (STATE, "yes", "No"), (STATE, "yes", "No"))).metrics
    assert (metrics["State/Precision"], metrics["State/Recall"]) == (33.3, 99.9)
    p, r = 1 / 3.001, 1 / 1.001
    assert round(2 * p * r / (p + r + 0.0001) * 100, 1) == 50.0
    assert metrics["State/F1"] == 49.9


def test_attribute_pools_three_denominators_of_their_own():
    metrics = score(questions((STATE, "no", "No"), (NUMBER, "no", "No"), (ACTION, "yes", "Yes"))).metrics
    assert metrics["Attribute/Accuracy"] == round(3 / 3.003 * 100, 1) == 99.9
    assert metrics["Attribute/Recall"] == round(2 / 2.003 * 100, 1) == 99.9
    assert metrics["Accuracy"] == round(3 / 3.001 * 100, 1) == 100.0
    assert metrics["Recall"] == round(2 / 2.001 * 100, 1) == 100.0


def test_everything_else_is_a_relation():
    rows = questions((RELATION, "yes", "Yes"), (RELATION_NO, "no", "No"), ("whatever", "no", "Yes"))
    scored = score(rows)
    assert scored.counts["Relation/answers"] == 3
    assert scored.metrics["Relation/Accuracy"] == round(2 / 3.001 * 100, 1)


def test_baselines_answer_every_question_alike():
    rows = questions((STATE, "yes", "Yes"), (STATE, "no", "Yes"), (EXISTENCE, "no", "No"))
    found = baselines(rows)
    assert found["always_no"] == {
        k: v for k, v in score([r._replace(answer="No") for r in rows]).metrics.items() if k != "no_ratio"
    }
    assert found["always_yes"]["F1"] == 0.0
    scored = score(rows)
    assert scored.baselines == found
    assert scored.metrics["no_ratio"] == 1 / 3
    assert set(scored.metrics) == set(METRICS)


def test_strict_refuses_other_answers_and_empty_ratios():
    whole = [
        (k, t, a)
        for k in (STATE, NUMBER, ACTION, EXISTENCE, RELATION)
        for t in ("yes", "no")
        for a in ("Yes", "No")
    ]
    assert score(questions(*whole), "strict").metrics == score(questions(*whole)).metrics
    with pytest.raises(Undefined, match="neither exactly Yes nor No") as caught:
        score(questions(*whole, (STATE, "no", "No.")), "strict")
    assert caught.value.row == len(whole)
    with pytest.raises(Undefined, match="0/0"):
        score(questions(*[(k, t, "Yes") for k, t, _ in whole]), "strict")
    with pytest.raises(Undefined):
        score([])


def test_score_agrees_with_its_twin_on_random_answers():
    rng = random.Random(1)
    kinds = (STATE, NUMBER, ACTION, EXISTENCE, RELATION, RELATION_NO)
    for trial in range(1500):
        size = rng.randrange(1, 60) if trial % 50 else 2000
        rows = [
            (rng.choice(kinds), rng.choice(("yes", "no")), rng.choice(("Yes", "No", "No", "no", "Yes.", "")))
            for _ in range(size)
        ]
        metrics = score(questions(*rows)).metrics
        assert {k: v for k, v in metrics.items() if k != "no_ratio"} == scorer_twins.amber_discriminative(
            rows
        )
    assert len(SECTIONS) * 4 + 1 == len(METRICS)
