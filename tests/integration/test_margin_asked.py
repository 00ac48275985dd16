"""What is trained is what is asked: the margin that training gains is there where generating begins."""

import pytest
import torch
import transformers as hf

from tests import kinds
from tests.unit.test_chat import IMAGE
from uedpo.data.collate import PairCollator
from uedpo.evaluation.decode import generate
from uedpo.model.ask import ask
from uedpo.model.chat import AnswerFrame
from uedpo.scoring.plain import score
from uedpo.types import PreferencePair

QUESTION = "Is there a dog?"


def tiny_llava(processor):
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = hf.CLIPVisionConfig(**sizes, image_size=28, patch_size=14, projection_dim=32)
    text = hf.LlamaConfig(
        **sizes, vocab_size=len(processor.tokenizer), bos_token_id=1, eos_token_id=2, pad_token_id=2
    )
    image = processor.tokenizer.convert_tokens_to_ids("<image>")
    torch.manual_seed(0)
    config = hf.LlavaConfig(vision_config=vision, text_config=text, image_token_index=image)
    return hf.LlavaForConditionalGeneration(config).eval()


def asked_margin(model, processor, frame, kind):
    """log p(Yes) - log p(No) in plain transformers after what `generate` is given; the tokens of an answer
    are those that the finished conversation has behind it."""
    inputs = ask(AnswerFrame(processor), [IMAGE], [QUESTION])
    length = inputs["input_ids"].shape[1] - 3  # 4 placeholders of an image are 1 in the text
    ends = processor.tokenizer.convert_tokens_to_ids(["</s>", "<|end|>"])
    totals = []
    for answer in ("Yes", "No"):
        text, ids, offsets = kinds.whole(kind, frame, kinds.turns(QUESTION, answer, image=True))
        stop = text.rindex(answer) + len(answer)
        last = next(i for i, (begin, _) in enumerate(offsets) if begin >= stop and ids[i] in ends)
        own = torch.tensor(ids[length : last + 1])  # its end of turn, too
        longer = torch.cat([inputs["input_ids"], own[None]], 1)
        logps = model(pixel_values=inputs["pixel_values"], input_ids=longer).logits[0].log_softmax(-1)
        totals.append(logps[-len(own) - 1 : -1].gather(-1, own[:, None]).sum())
    return float(totals[0] - totals[1])


@pytest.mark.parametrize("frame", ["colon", "space", "letter glued", "thinking"])
@pytest.mark.parametrize("kind", kinds.KINDS)
@pytest.mark.cases(7)
def test_the_margin_gained_is_there_where_generate_asks(kind, frame):
    processor = kinds.processor(kind, frame)
    model = tiny_llava(processor)
    batch = PairCollator(processor, 20)([PreferencePair("a", IMAGE, QUESTION, "Yes", "No")])

    def trained_margin():
        logps = score(model, batch).logps.sum(-1)
        return logps[0] - logps[1]

    with torch.no_grad():
        before = float(trained_margin()), asked_margin(model, processor, frame, kind)
    optimizer = torch.optim.Adam(model.model.language_model.parameters(), lr=2e-3)
    for _ in range(40 if kind == "mistral" else 12):  # a vocabulary of 32,000
        likelihood = score(model, batch).logps[0].mean()  # so that greedy decoding says it
        loss = -torch.nn.functional.logsigmoid(trained_margin() - before[0]) - likelihood
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        gained = float(trained_margin()) - before[0], asked_margin(model, processor, frame, kind) - before[1]
    assert gained[0] > 1
    assert gained[1] >= 0.9 * gained[0]
    (said,) = generate(model, processor, [IMAGE], QUESTION, max_new_tokens=8, batch_size=1)
    assert said == "Yes"
