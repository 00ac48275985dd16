import numpy as np
import pytest

from uedpo.microworld.evaluation import MicroWorldEvaluation
from uedpo.microworld.forced_choice import OPENING, answer, forced_choice, question
from uedpo.microworld.scene import COMPANION, make_scene, render
from uedpo.model.hf import HFModel

SCENES = [make_scene("shift", i) for i in range(60)]


@pytest.fixture(scope="module")
def loaded():
    source = HFModel("uedpo:micro_llava")
    return source.base(), source.processor()


def test_questions_name_one_thing_there_and_one_not():
    adversarial = 0
    for scene in SCENES:
        present, absent = question(scene)
        assert question(scene) == (present, absent)
        assert scene.find(present) is not None
        assert scene.find(absent) is None
        companion = COMPANION[scene.items[0].category]
        assert absent == companion or scene.find(companion) is not None
        adversarial += absent == companion
    assert adversarial > 0.7 * len(SCENES)
    sizes = {scene.find(question(scene)[0]).size for scene in SCENES}
    assert sizes == {"large", "medium", "small"}


def test_answers_have_the_right_article():
    assert answer("apple") == f"{OPENING} an apple"
    assert answer("bread") == f"{OPENING} a loaf"


def test_the_base_model_is_neither_at_chance_nor_at_the_ceiling(loaded):
    right = list(forced_choice(*loaded, SCENES, [render(s) for s in SCENES], 25))
    assert len(right) == len(SCENES)
    assert 0.6 < np.mean(right) < 0.97
    one_by_one = list(forced_choice(*loaded, SCENES[:5], [render(s) for s in SCENES[:5]], 1))
    assert one_by_one == right[:5]


def test_evaluation_gives_counts_of_each_scene(loaded):
    model, processor = loaded
    model.train()
    done = []
    evaluation = MicroWorldEvaluation(num_shift=6, num_train=3, batch_size=4, pope_every=2)
    metrics, counts = evaluation.run(model, processor, done.append)
    assert model.training
    assert sum(done) == evaluation.num_scenes == 9
    assert [row["pope"] for row in counts["shift"]] == [1, 0, 1, 0, 1, 0]
    assert [len(rows) for rows in counts.values()] == [6, 3]
    assert metrics["shift"]["pope_accuracy"]["denominator"] == 3
    without = MicroWorldEvaluation(num_shift=2, num_train=0, pope_every=0).run(model, processor)
    assert list(without.metrics) == ["shift"]
    assert without.metrics["shift"]["pope_accuracy"]["value"] is None
