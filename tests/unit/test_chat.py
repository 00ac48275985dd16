"""What a row is trained on is its conversation as the chat template writes it, whatever the tokenizer."""

import json
import os
import random

import pytest
import torch
from PIL import Image

from tests import kinds
from uedpo.data.boundary import boundary_lines, check_rows
from uedpo.data.collate import PairCollator
from uedpo.errors import InputError
from uedpo.model.ask import ask
from uedpo.model.chat import AnswerFrame
from uedpo.types import PreferencePair

every_kind = pytest.mark.parametrize("kind", kinds.KINDS)
PAIRS = 100 if os.environ.get("CI") else 20  # two conversations each
IMAGE = Image.new("RGB", (28, 28), (200, 30, 30))


def _text(draw, most):
    words = [draw.choice([*kinds.WORDS, *kinds.MARKS]) for _ in range(draw.randint(1, most))]
    return "".join(word + draw.choice(["", " ", " ", " ", "\n", "  "]) for word in words).strip()


def _pair(seed):
    draw = random.Random(seed)
    history = [
        (role, _text(draw, 5)) for _ in range(draw.choice((0, 0, 1))) for role in ("user", "assistant")
    ]
    chosen, rejected = (
        draw.choice(["", "", " ", "\n"]) + _text(draw, 8) + draw.choice(["", " "]) for _ in "ab"
    )
    image = IMAGE if seed % 10 == 0 else None
    return PreferencePair(str(seed), image, _text(draw, 8), chosen, rejected, history=tuple(history))


@every_kind
def test_ids_are_those_of_the_whole_conversation(kind):
    """Random conversations in each frame, 200 in CI; the mask holds the answer and its end."""
    for frame in kinds.FRAMES:
        collate = PairCollator(kinds.processor(kind, frame), 10_000)
        for start in range(0, PAIRS, 20):
            pairs = [_pair(seed) for seed in range(start, start + 20)]
            batch = collate(pairs)
            for row, text in enumerate([*(p.chosen for p in pairs), *(p.rejected for p in pairs)]):
                _check(batch, row, pairs[row % 20], text.strip(), kind, frame)


def _check(batch, row, pair, answer, kind, frame):
    history = list(pair.history)
    conversation = kinds.turns(pair.prompt, answer, history, image=pair.image is not None)
    text, ids, offsets = kinds.whole(kind, frame, conversation)
    got = batch.inputs["input_ids"][row][batch.inputs["attention_mask"][row] == 1].tolist()
    # a picture is 4 placeholders of 1 in the text
    extra = 3 if pair.image is not None else 0
    mark = kinds.tokenizer(kind).convert_tokens_to_ids("<image>")
    unexpanded = [t for i, t in enumerate(got) if not (t == mark and got[i - 1] == mark)]
    assert unexpanded == ids, (kind, frame, conversation)
    first = int(batch.positions[row, 0]) + 1 - extra
    last = first + int(batch.mask[row].sum())
    end = text.rindex(answer) + len(answer)
    begin = end - len(answer)
    assert batch.tokens[row][batch.mask[row]].tolist() == ids[first:last]
    assert all(stop <= begin for _, stop in offsets[:first])
    written = [t for t in ("<|end|>", "</s>") if text[end:].lstrip().startswith(t)]
    stop = text.index(written[0], end) + len(written[0]) if written else len(text) + 1
    assert offsets[last - 1][1] == stop
    # where a token joins the end of the prompt with an answer, the response begins with that token
    if not frame.endswith("glued") and kind != "byte_level_unsplit":
        outside = [text[a:b] for a, b in offsets[first:last] if b <= begin or end <= a < b]
        assert not "".join(outside).replace(written[0] if written else "", "").strip()


@every_kind
def test_generate_asks_with_what_comes_before_the_answers(kind):
    for frame in kinds.FRAMES:
        processor = kinds.processor(kind, frame)
        inputs = ask(AnswerFrame(processor), [IMAGE, IMAGE], ["Is there a dog?", "What is it?"])
        pairs = [PreferencePair(q, IMAGE, q, "Yes", "No") for q in ("Is there a dog?", "What is it?")]
        batch = PairCollator(processor, 50)(pairs)
        for row in range(4):
            asked = inputs["input_ids"][row % 2][inputs["attention_mask"][row % 2] == 1].tolist()
            assert asked == batch.inputs["input_ids"][row, : batch.prefix_lengths[row]].tolist(), frame


def test_pieces_are_those_of_the_golden_file():
    """Another version of the tokenizers would cut another way, and then these tests would test less."""
    golden = json.loads(kinds.PIECES.read_text(encoding="utf-8"))
    assert {kind: golden[kind] for kind in kinds.KINDS} == kinds.pieces()
    assert "▁ASS IST ANT : ▁Yes ." in golden["mistral"]["colon"][0]
    sequences = [row for frames in kinds.pieces().values() for rows in frames.values() for row in rows]
    assert any("▁ASSISTANT: ▁Yes" in row for row in sequences)
    assert any(":(" in row.split() for row in sequences)  # an answer that begins in the prompt's last token


def test_an_answer_that_begins_within_the_last_token_of_the_prompt():
    frame = AnswerFrame(kinds.processor("byte_level", "colon glued"))
    rendered = frame.render(kinds.turns("What?"), ["(two", "two"])
    decode = frame.tokenizer.decode
    assert decode(rendered.context).endswith("ASSISTANT:")
    assert [(r.swallowed, decode(r.ids)) for r in rendered.responses] == [(1, ":(two</s>"), (0, "two</s>")]
    assert frame.spans(kinds.turns("What?"), "(two dogs")[0] == (0, 1)


def test_white_space_around_an_answer_is_left_out():
    frame = AnswerFrame(kinds.processor("characters", "newline"))
    ids = [r.ids for r in frame.render(kinds.turns("What?"), ["No dog", " \nNo dog \t\n"]).responses]
    assert ids[0] == ids[1]
    assert frame.tokenizer.decode(ids[0]) == "No dog<|end|>"


@every_kind
def test_spans_of_characters_land_on_their_tokens(kind):
    text = "  (Yes, two dogs) "
    for frame in kinds.FRAMES:
        made = AnswerFrame(kinds.processor(kind, frame))
        turns = kinds.turns("What?")
        spans = made.spans(turns, text)
        (response,) = made.render(turns, [text]).responses
        assert len(spans) == len(response.ids)
        covered = [text.strip()[a:b] for a, b in spans]
        # a mark that a tokenizer puts before a word has the word's first character, too
        own = [piece for i, piece in enumerate(covered) if covered[i + 1 : i + 2] != [piece]]
        assert "".join(own).replace(" ", "") == "(Yes,twodogs)"
        for piece, token in zip(covered, response.ids, strict=True):
            if piece.isalpha():
                assert piece in made.tokenizer.decode([token])


def test_weights_of_characters_reach_a_straddling_token():
    processor = kinds.processor("prepend", "colon")
    pair = PreferencePair("a", None, "Is there?", "Yes two", "No", chosen_weights=((0, 3, 3.0),))
    batch = PairCollator(processor, 50)([pair])
    tokens = processor.tokenizer.convert_ids_to_tokens(batch.tokens[0].tolist())
    assert tokens[0].startswith("▁Y")
    assert batch.token_weights is not None
    weights = dict(zip(tokens, batch.token_weights[0].tolist(), strict=True))
    assert weights[tokens[0]] == 3.0
    assert weights["</s>"] == 1.0


def test_thoughts():
    processor = kinds.processor("byte_level", "thinking")
    frame = AnswerFrame(processor)
    turns = kinds.turns("What?")
    text, start = frame.conversation(turns, "A cup.")
    assert text[:start].endswith(
        "<|start|>assistant\n<think>\n\n</think>\n\n"
    )  # closed, as the template has it
    with pytest.raises(
        InputError, match="brings a block that ends in </think>, and the chat template writes one"
    ):
        frame.conversation(turns, "<think>\nhm\n</think>\n\nA cup.")
    own = kinds.processor("byte_level", "thinking")
    own.chat_template = own.chat_template.replace(  # as templates have it that read an answer's own thoughts
        "<think>\n\n</think>\n\n",
        "{% if '</think>' not in m.content[-1].text %}<think>\n\n</think>\n\n{% endif %}",
    )
    text, start = AnswerFrame(own).conversation(turns, "<think>\nhm\n</think>\n\nA cup.")
    assert text[:start].endswith("<|start|>assistant\n")
    ids = AnswerFrame(own).render(turns, ["<think>\nhm\n</think>\n\nA cup."]).responses[0].ids
    assert frame.tokenizer.decode(ids).endswith("hm\n</think>\n\nA cup.<|end|>")
    never = kinds.processor("byte_level", "thinking")
    never.chat_template = never.chat_template.replace("<think>\n\n</think>\n\n", "")
    with pytest.raises(
        InputError, match=r"asks for an answer with '.*<think>\\n' and writes one as '.*zebra"
    ) as e:
        AnswerFrame(never)
    assert len(str(e.value).splitlines()) == 1


def test_answers_that_the_template_rewrites_are_refused():
    processor = kinds.processor("byte_level", "newline")
    processor.chat_template = processor.chat_template.replace("c.text", "c.text | replace('dog', 'cat')")
    with pytest.raises(
        InputError, match=r"writes this answer otherwise: it ends in '.*a cat.*', the answer in 'a dog"
    ):
        AnswerFrame(processor).conversation(kinds.turns("What?"), "a dog")


def test_end_of_turn_and_end_of_text():
    ends = {frame: AnswerFrame(kinds.processor("byte_level", frame)).end for frame in kinds.FRAMES}
    assert {ends["newline"], ends["thinking"]} == {kinds.SPECIAL.index("<|end|>")}
    assert {ends["colon"], ends["space"], ends["two newlines"]} == {kinds.SPECIAL.index("</s>")}


def test_padding_is_no_part_of_the_mask_where_pad_is_the_end_token():
    processor = kinds.processor("prepend", "colon")
    assert processor.tokenizer.pad_token_id == processor.tokenizer.eos_token_id
    batch = PairCollator(processor, 50)([PreferencePair("a", None, "What?", "Yes, two dogs there", "No")])
    ends = (batch.tokens == 2) & batch.mask
    assert ends.sum(1).tolist() == [1, 1]
    assert torch.equal(
        batch.inputs["attention_mask"].sum(1), torch.tensor(batch.prefix_lengths) + batch.mask.sum(1)
    )


@every_kind
def test_rows_are_compared_with_the_text_of_the_template_at_the_start(kind):
    pairs = [PreferencePair("a", IMAGE, "Is there a dog?", "Yes, two", "No"), _pair(11)]
    for frame in kinds.FRAMES:
        check_rows(PairCollator(kinds.processor(kind, frame), 50), pairs)
        check_rows(PairCollator(kinds.processor(kind, frame), 2), pairs)  # cut


def test_rows_of_another_text_are_refused_with_both(monkeypatch):
    collate = PairCollator(kinds.processor("prepend", "colon"), 50)
    pair = PreferencePair("a", IMAGE, "Is there a dog?", "Yes two", "No")
    lines = boundary_lines(collate, pair)
    assert lines[1].endswith("... s ▁there ▁a ▁dog? ▁ASSISTANT: || ▁Yes ▁two </s>")
    render = AnswerFrame.render

    def alone(self, turns, answers):  # the answer encoded by itself behind the space
        rendered = render(self, turns, answers)
        stray = self.tokenizer.convert_tokens_to_ids("▁")
        return rendered._replace(responses=[r._replace(ids=[stray, *r.ids]) for r in rendered.responses])

    monkeypatch.setattr(AnswerFrame, "render", alone)
    with pytest.raises(
        InputError, match=r"^row a: is trained as .* where the chat template writes .*Yes two"
    ) as e:
        check_rows(collate, [pair])
    assert len(str(e.value).splitlines()) == 1
