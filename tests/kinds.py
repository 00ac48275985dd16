"""Tokenizers of every kind and chat templates that end in every way, trained and written here.

`python -m tests.kinds` writes `tests/pieces.json` anew: how each kind cuts a few conversations. It wants
`pip install "mistral-common[sentencepiece]"`, and so does the kind "mistral" of the tests.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import random
from pathlib import Path

import transformers as hf
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

PIECES = Path(__file__).parent / "pieces.json"
SPECIAL = ["<unk>", "<s>", "</s>", "<image>", "<|start|>", "<|end|>"]
ANSWERS = ["yes", "no", "Yes", "No", "the", "The", "a", "A", "It", "I", "in", "In"]
NOUNS = ["dog", "cat", "red", "cup", "table", "on", "under", "small", "two", "2", "17", "is", "there", "of"]
WORDS = [*ANSWERS, *NOUNS, "what", "What", "user", "assistant", "USER", "ASSISTANT", "Answer", "image"]
MARKS = [".", ",", "?", "!", ":", ";", "(", ")", '"', "-", "'", "*", "</", "=>", "é", "ü", "狗", "猫", "🐕"]


def _corpus():
    draw = random.Random(0)
    for _ in range(400):
        words = [draw.choice(WORDS) for _ in range(draw.randint(3, 12))]
        yield f"USER: {' '.join(words)}? ASSISTANT: {draw.choice(WORDS)}, {draw.choice(WORDS)}.\n"
        yield f"assistant:){draw.choice(WORDS)} :( tYes antNo\n\n{draw.choice(WORDS)}"


def _post(inner, single):
    ids = [(t, inner.token_to_id(t)) for t in ("<s>", "</s>")]
    inner.post_processor = processors.TemplateProcessing(single=single, pair=None, special_tokens=ids)


def _train(inner, trainer, **options):
    made = trainer(special_tokens=SPECIAL, show_progress=False, **options)
    inner.train_from_iterator(_corpus(), made)


def prepend():
    """As Llama-2's tokenizer.json: a mark before the text, none of the words apart, <s> in front."""
    inner = Tokenizer(models.BPE(unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    letters = [*{c for w in (*WORDS, *MARKS) for c in w}, "\n", "▁"]
    _train(inner, trainers.BpeTrainer, vocab_size=500, initial_alphabet=sorted(letters))
    inner.pre_tokenizer = None
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    _post(inner, "<s> $A")
    return inner


def metaspace():
    """As T5's and newer Llama's: a mark before every piece of text, special tokens between them included."""
    inner = Tokenizer(models.Unigram())
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    inner.decoder = decoders.Metaspace(prepend_scheme="always")
    _train(inner, trainers.UnigramTrainer, vocab_size=300, unk_token="<unk>")
    return inner


def byte_level():
    """As GPT-2's and Qwen's: bytes, a space belongs to the word behind it."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    _train(
        inner,
        trainers.BpeTrainer,
        vocab_size=600,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    inner.post_processor = processors.ByteLevel(trim_offsets=True)
    return inner


def byte_level_unsplit():
    """Bytes without any split, so that a merge may cross every boundary."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    _train(
        inner,
        trainers.BpeTrainer,
        vocab_size=900,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        max_token_length=6,
    )
    return inner


def word_piece():
    """As BERT's: white space is not a token, a start and an end token around every text."""
    inner = Tokenizer(models.WordPiece(unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    _train(inner, trainers.WordPieceTrainer, vocab_size=500)
    _post(inner, "<s> $A </s>")
    return inner


def appends():
    """As a Llama tokenizer with add_eos_token: an end token behind every text."""
    inner = prepend()
    _post(inner, "<s> $A </s>")
    return inner


def characters():
    """One token a character."""
    inner = Tokenizer(models.BPE(unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    letters = sorted({c for w in (*WORDS, *MARKS) for c in w} | {" ", "\n", "<", ">", "/", "|"})
    _train(inner, trainers.BpeTrainer, vocab_size=len(SPECIAL) + len(letters), initial_alphabet=letters)
    inner.decoder = decoders.Fuse()
    return inner


def mistral():
    """Mistral's own SentencePiece model, which the package mistral-common carries; `prepend` in large."""
    from mistral_common import __file__ as package
    from sentencepiece import SentencePieceProcessor

    model = SentencePieceProcessor(model_file=str(Path(package).parent / "data" / "tokenizer.model.v1"))
    numbers = range(model.get_piece_size())
    vocabulary = {model.id_to_piece(i): i for i in numbers}
    taken = [i for i in numbers if not (model.is_control(i) or model.is_unknown(i) or model.is_byte(i))]
    merges = []
    for i in sorted(taken, key=model.get_score, reverse=True):
        piece = model.id_to_piece(i)
        halves = [(piece[:k], piece[k:]) for k in range(1, len(piece))]
        known = [half for half in halves if half[0] in vocabulary and half[1] in vocabulary]
        merges += sorted(known, key=lambda half: (vocabulary[half[0]], vocabulary[half[1]]))
    inner = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    inner.decoder = decoders.Sequence(parts)
    _post(inner, "<s> $A")
    text = "USER: Is there a dog? ASSISTANT: Yes, two.\nIt's (red) 狗."
    assert inner.encode(text, add_special_tokens=False).ids == model.encode(text)
    return inner


HAVE_MISTRAL = all(importlib.util.find_spec(name) for name in ("mistral_common", "sentencepiece"))

KINDS = {
    made.__name__: made
    for made in (
        prepend,
        metaspace,
        byte_level,
        byte_level_unsplit,
        word_piece,
        appends,
        characters,
        *([mistral] if HAVE_MISTRAL else []),
    )
}

STARTS = ("prepend", "appends", "word_piece", "mistral")  # put <s> before a text

_TURNS = (
    "START{% for m in messages %}{% if m.role == 'assistant' %}BEFORE{% else %}ROLE{% endif %}"
    "{% for c in m.content %}{% if c.type == 'image' %}<image>\n{% else %}{{ c.text }}{% endif %}{% endfor %}"
    "{% if m.role == 'assistant' %}AFTER{% else %}NEXT{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASKS{% endif %}"
)


def _template(asks, before=None, after="</s>", role="USER: ", following=" ", start=""):
    parts = {"START": start, "ROLE": role, "NEXT": following, "BEFORE": before or asks, "AFTER": after}
    return functools.reduce(lambda text, part: text.replace(*part), [*parts.items(), ("ASKS", asks)], _TURNS)


_MARKED = {"role": "<|start|>user\n", "following": "<|end|>\n", "after": "<|end|>\n"}
# how the text ends that asks for an answer, and how an answer ends
FRAMES = {
    "colon": _template("ASSISTANT:", "ASSISTANT: ", after=" "),
    "colon glued": _template("ASSISTANT:"),
    "letter": _template("ASSISTANT", "ASSISTANT ", after="</s> "),
    "letter glued": _template("assistant"),
    "space": _template("ASSISTANT: "),
    "newline": _template("<|start|>assistant\n", **_MARKED),
    "two newlines": _template("Answer\n\n", after="\n</s>"),
    "special token": _template("<|start|>", **_MARKED),
    "start written": _template("ASSISTANT:", "ASSISTANT: ", start="<s>"),
    "thinking": _template(
        "<|start|>assistant\n<think>\n", "<|start|>assistant\n<think>\n\n</think>\n\n", **_MARKED
    ),
}
ENDS = {"colon": False}  # whether the template writes an end of turn


@functools.cache
def tokenizer(kind):
    """A fresh tokenizer; pad is the end token, as many have it."""
    inner = KINDS[kind]()
    inner.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="</s>", unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
    )  # fmt: skip


def processor(kind, frame):
    """A LLaVA processor with the tokenizer and the template."""
    images = hf.CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    return hf.LlavaProcessor(
        images, tokenizer(kind), patch_size=14, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=FRAMES[frame],
    )  # fmt: skip


def turns(question, answer=None, history=(), image=False):
    """A conversation as chat templates take it."""
    said = [*history, ("user", question), *([] if answer is None else [("assistant", answer)])]
    made = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in said]
    if image:
        made[0]["content"].insert(0, {"type": "image"})
    return made


def whole(kind, frame, conversation):
    """(ids, offsets of each) of a finished conversation as the template writes it, encoded whole."""
    tokens, text = (
        tokenizer(kind),
        tokenizer(kind).apply_chat_template(conversation, chat_template=FRAMES[frame], tokenize=False),
    )
    ends = ENDS.get(frame, True)
    if not ends:
        answer = conversation[-1]["content"][-1]["text"]
        text = text[: text.rindex(answer) + len(answer)]
    made = tokens(text, add_special_tokens=False, return_offsets_mapping=True)
    start = [1] if kind in STARTS and not text.startswith("<s>") else []
    offsets = [(0, 0)] * len(start) + made["offset_mapping"] + [(len(text), len(text) + 1)] * (not ends)
    return text, start + made["input_ids"] + [2] * (not ends), offsets


def pieces():
    """kind -> frame -> pieces of two conversations."""
    made = {}
    for kind in KINDS:
        made[kind] = {}
        for frame in FRAMES:
            made[kind][frame] = []
            for answer in ("Yes.", "(two dogs)"):
                text = processor(kind, frame).apply_chat_template(turns("Is there a dog?", answer))
                made[kind][frame].append(" ".join(tokenizer(kind).tokenize(text)))
    return made


if __name__ == "__main__":
    assert HAVE_MISTRAL, "pip install mistral-common[sentencepiece]"
    PIECES.write_text(json.dumps(pieces(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
