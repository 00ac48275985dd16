"""Tokens, tags, lemmas, singulars and similarities: from nltk, spaCy, pattern, or recordings of them."""

from __future__ import annotations

import functools
import hashlib
import math
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from uedpo.errors import InputError
from uedpo.evaluation.official.object_halbench import Token
from uedpo.evaluation.official.outcome import MissingAsset, UnknownWord
from uedpo.evaluation.official.reading import shown, texts

# resource -> the files of it that decide a score
_RESOURCES = {
    "tokenizers/punkt_tab": (
        "english/abbrev_types.txt",
        "english/collocations.tab",
        "english/ortho_context.tab",
        "english/sent_starters.txt",
    ),
    "taggers/averaged_perceptron_tagger_eng": tuple(
        f"averaged_perceptron_tagger_eng.{part}.json" for part in ("classes", "tagdict", "weights")
    ),
    "corpora/wordnet": ("index.noun", "noun.exc"),
}
PUNKT, TAGGER, WORDNET = _RESOURCES


class Nltk:
    """nltk with its data found in `folder`/nltk_data or where NLTK_DATA says; never downloaded.

    Attributes:
        version: of nltk.
        sha256: of each data file that a score depends on.

    Raises:
        MissingAsset: the package, or one of `resources`.
    """

    def __init__(self, folder: Path, *resources: str) -> None:
        try:
            import nltk
        except ImportError:
            raise MissingAsset("nltk is not installed; pip install 'uedpo[eval]'") from None
        self._nltk = nltk
        self.version: str = nltk.__version__
        self.sha256: dict[str, str] = {}
        own = str(folder / "nltk_data")
        environment = [p for p in os.environ.get("NLTK_DATA", "").split(os.pathsep) if p]
        # the assets' own first, whatever was found before
        nltk.data.path[:] = list(dict.fromkeys([own, *environment, *nltk.data.path]))
        for resource in resources:
            self._find(resource)

    def _find(self, resource: str) -> None:
        for name in (resource, f"{resource}.zip"):
            try:
                found = Path(str(self._nltk.data.find(name)))
            except LookupError:
                continue
            files = [found / file for file in _RESOURCES[resource]] if found.is_dir() else [found]
            try:
                digests = {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files}
            except OSError as error:
                raise MissingAsset(f"nltk resource {resource}: {error.filename} cannot be read") from None
            self.sha256 |= {f"nltk_data/{resource}/{file}": digest for file, digest in digests.items()}
            return
        short = resource.rpartition("/")[2]
        raise MissingAsset(
            f"nltk resource {resource} is not in ASSETS/nltk_data, $NLTK_DATA or nltk's own folders; "
            f"get it with python -m nltk.downloader {short}"
        )

    def tokens(self, text: str) -> list[str]:
        return list(self._nltk.word_tokenize(text))

    def nouns(self, text: str) -> list[str]:
        """Lemmas of what is tagged NN..., case kept (nltk.pos_tag, which loads its tagger every time)."""
        tagged = self._tagger.tag(self.tokens(text))
        return [self.lemma(word) for word, tag in tagged if tag.startswith("NN")]

    def lemma(self, word: str) -> str:
        """WordNet's noun lemma: the shortest, or the word itself."""
        return self._lemma(word)

    @functools.cached_property
    def _tagger(self) -> Any:
        from nltk.tag.perceptron import PerceptronTagger

        return PerceptronTagger()

    @functools.cached_property
    def _lemma(self) -> Callable[[str], str]:
        from nltk.stem import WordNetLemmatizer

        return functools.cache(WordNetLemmatizer().lemmatize)


class SingularTable:
    """Recorded `pattern.en.singularize`: {word: singular}."""

    def __init__(self, value: object, name: str) -> None:
        if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
            raise InputError(f"{name}: must be an object {{word: singular}} of texts, not {shown(value)}")
        self.table: Mapping[str, str] = value
        self.version = f"recorded: {name}"

    def __call__(self, word: str) -> str:
        if word not in self.table:
            raise UnknownWord(word)
        return self.table[word]


def pattern_singularize() -> tuple[Callable[[str], str], str]:
    """pattern's own, and its version.

    Raises:
        MissingAsset: it is not installed.
    """
    try:
        import pattern
        from pattern.en import singularize
    except ImportError:
        raise MissingAsset(
            "singularize: pattern (https://github.com/clips/pattern) is not installed; "
            "pass singularize=PATH, a recording {word: singular}"
        ) from None
    return functools.cache(singularize), f"pattern {getattr(pattern, '__version__', 'unknown')}"


class TagTable:
    """Recorded spaCy tags: {"a " + phrase: [[text, lemma, tag], ...]}.

    A key may also be the phrase alone, where its tokens show that the "a" was tagged with it.
    """

    def __init__(self, value: object, name: str) -> None:
        if not isinstance(value, dict):
            raise InputError(f"{name}: must be an object {{phrase: tokens}}, not {shown(value)}")
        self.table = {key: _tokens(tokens, f"{name}[{key!a}]") for key, tokens in value.items()}
        self.version = f"recorded: {name}"

    def __call__(self, text: str) -> list[Token]:
        if text in self.table:
            return self.table[text]
        tokens = self.table.get(text.removeprefix("a "))
        if tokens is None or "".join(t.text for t in tokens).split() != ["".join(text.split())]:
            raise UnknownWord(text)
        return tokens


def _tokens(value: object, where: str) -> list[Token]:
    if not isinstance(value, list):
        raise InputError(f"{where}: must be a list of [text, lemma, tag], not {shown(value)}")
    for token in value:
        if len(texts(token, f"{where}: token")) != 3:
            raise InputError(f"{where}: token must be [text, lemma, tag], not {shown(token)}")
    return [Token(*token) for token in value]


class SimilarityTable:
    """Recorded similarities [[word, word, value], ...]: identical words 1.0, pairs not in it 0.0."""

    def __init__(self, value: object, name: str) -> None:
        if not isinstance(value, list):
            raise InputError(f"{name}: must be a list of [word, word, value], not {shown(value)}")
        self.table: dict[frozenset[str], float] = {}
        self.version = f"recorded: {name}"
        for i, row in enumerate(value):
            where = f"{name}[{i}]"
            if not isinstance(row, list) or len(row) != 3:
                raise InputError(f"{where}: must be [word, word, value], not {shown(row)}")
            pair, number = frozenset(texts(row[:2], f"{where}: words")), row[2]
            if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
                raise InputError(f"{where}: value must be a finite number, not {shown(number)}")
            if self.table.setdefault(pair, number) != number:
                raise InputError(f"{where}: {shown(row[:2])} again, with another value")

    def __call__(self, one: str, other: str) -> float:
        return 1.0 if one == other else self.table.get(frozenset((one, other)), 0.0)


def _spacy(model: str, option: str) -> Any:
    remedy = f"pip install 'uedpo[eval]' and python -m spacy download {model}, or pass {option}=PATH"
    try:
        import spacy
    except ImportError:
        raise MissingAsset(f"spaCy is not installed; {remedy}") from None
    try:
        return spacy.load(model)
    except OSError:
        raise MissingAsset(f"spaCy's {model} is not installed; {remedy}") from None


def spacy_similarity() -> tuple[Callable[[str, str], float], str]:
    """Doc.similarity of en_core_web_lg, with the model's version: it decides the score."""
    nlp = _spacy("en_core_web_lg", "similarity")
    doc = functools.cache(nlp.make_doc)  # vectors do not depend on the pipeline

    @functools.cache
    def similarity(one: str, other: str) -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # W008: a word without a vector, which is 0.0
            return float(doc(one).similarity(doc(other)))

    return similarity, f"en_core_web_lg {nlp.meta['version']}"


def spacy_tagger() -> tuple[Callable[[str], list[Token]], str]:
    """Lemmas and tags of en_core_web_trf."""
    nlp = _spacy("en_core_web_trf", "tagger")

    @functools.cache
    def tag(text: str) -> list[Token]:
        return [Token(t.text, t.lemma_, t.tag_) for t in nlp(text)]

    return tag, f"en_core_web_trf {nlp.meta['version']}"
