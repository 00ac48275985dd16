from uedpo.data.prompts import pair_turns
from uedpo.microworld.data import MicroWorldPairs
from uedpo.microworld.tokens import contradicts, scene_of, token_truth
from uedpo.model.chat import AnswerFrame
from uedpo.model.hf import HFModel


def test_truth_follows_the_words():
    processor = HFModel("uedpo:micro_llava").processor()
    frame, tokenizer = AnswerFrame(processor), processor.tokenizer
    for i in range(20):
        pair = MicroWorldPairs("train", 20)[i]
        scene = scene_of(pair)
        truth = token_truth(pair.chosen, scene, frame.spans(pair_turns(pair), pair.chosen))
        ids = tokenizer(" " + pair.chosen, add_special_tokens=False)["input_ids"]
        assert len(truth) == len(ids) + 1
        assert truth[-1].kind == "end"
        assert all(t.right for t in truth if t.kind == "object")  # chosen captions name what is there
        words = [w.strip(".,").lower() for w in pair.chosen.split()]
        assert [t.word for t in truth if t.word and t.word not in ".,"] == words
        for token in truth:
            if token.size:
                assert token.size in {item.size for item in scene.items}


def test_only_another_thing_contradicts():
    assert contradicts(" hen", "dog")
    assert not contradicts(" pup", "dog")
    assert not contradicts(" dog", "dog")
    assert not contradicts(" with", "dog")
    assert not contradicts(" ", "dog")
    assert contradicts(" red", "blue")
    assert not contradicts(" red", "dog")
    assert not contradicts(" red", "the")
