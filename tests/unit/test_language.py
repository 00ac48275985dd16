import builtins

import pytest

from uedpo.errors import InputError
from uedpo.evaluation.official import language
from uedpo.evaluation.official.object_halbench import Token
from uedpo.evaluation.official.outcome import MissingAsset, UnknownWord


def test_similarity_table_is_symmetric_and_knows_identity():
    table = language.SimilarityTable([["a", "b", 0.9], ["b", "a", 0.9], ["c", "c", 0.2]], "f")
    assert (table("a", "b"), table("b", "a"), table("c", "c"), table("a", "c")) == (0.9, 0.9, 1.0, 0.0)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({}, "f: must be a list"),
        ([["a", "b"]], r"f\[0\]: must be \[word, word, value\]"),
        ([["a", 1, 0.5]], r"f\[0\]: words: must be a list of texts"),
        ([["a", "b", float("nan")]], r"f\[0\]: value must be a finite number, not nan"),
        ([["a", "b", True]], r"f\[0\]: value must be a finite number"),
        ([["a", "b", 0.5], ["b", "a", 0.6]], r"f\[1\]: .* again, with another value"),
    ],
)
def test_similarity_table_refuses(value, message):
    with pytest.raises(InputError, match=message):
        language.SimilarityTable(value, "f")


def test_tag_table_is_looked_up_with_the_article():
    dog = [["a", "a", "DT"], ["dogs", "dog", "NNS"]]
    table = language.TagTable({"a dogs": dog, "cat": [["a", "a", "DT"], ["cat", "cat", "NN"]]}, "f")
    assert table("a dogs")[1] == Token("dogs", "dog", "NNS")
    assert table("a cat")[1].lemma == "cat"
    # "dogs" alone was never tagged, nor was "a a dogs"
    for text in ("a dog", "a a dogs", "dogs"):
        with pytest.raises(UnknownWord):
            table(text)


@pytest.mark.parametrize("value", [[], {"a x": "NN"}, {"a x": [["x", "x"]]}, {"a x": [["x", "x", 1]]}])
def test_tag_table_refuses(value):
    with pytest.raises(InputError, match="f"):
        language.TagTable(value, "f")


def test_singular_table_knows_what_is_recorded():
    table = language.SingularTable({"buses": "bus", "bus": "bu"}, "f")
    assert (table("buses"), table("bus")) == ("bus", "bu")
    with pytest.raises(UnknownWord):
        table("cats")
    for value in ([], {"a": 1}):
        with pytest.raises(InputError, match="f: must be an object"):
            language.SingularTable(value, "f")


@pytest.mark.parametrize(
    ("package", "call", "remedy"),
    [
        ("spacy", language.spacy_similarity, r"uedpo\[eval\].*en_core_web_lg.*similarity=PATH"),
        ("spacy", language.spacy_tagger, r"uedpo\[eval\].*en_core_web_trf.*tagger=PATH"),
        ("pattern", language.pattern_singularize, "singularize=PATH"),
    ],
)
def test_a_missing_package_is_named_with_its_remedy(monkeypatch, package, call, remedy):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] == package:
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingAsset, match=remedy) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_missing_nltk_resource_is_named_and_not_downloaded(tmp_path, monkeypatch):
    nltk = pytest.importorskip("nltk")
    monkeypatch.setattr(nltk.data, "path", [])
    monkeypatch.delenv("NLTK_DATA", raising=False)
    with pytest.raises(MissingAsset, match=r"corpora/wordnet is not in .*nltk.downloader wordnet") as caught:
        language.Nltk(tmp_path, language.WORDNET)
    assert "\n" not in str(caught.value)
