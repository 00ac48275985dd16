"""Charts, heat maps, pictures and classes of the report, and the quantiles it is made of."""

import itertools
import json
import xml.etree.ElementTree as ET

import pytest
import torch
from PIL import Image

from uedpo.callbacks.distributions import distribution
from uedpo.errors import InputError
from uedpo.report.charts import MOST_POINTS, Line, fan_chart, line_chart, thinned, ticks
from uedpo.report.classes import class_table
from uedpo.report.heatmap import Scale, heat, index, scales, strongest
from uedpo.report.page import write_report
from uedpo.report.pictures import Pictures, picture_url
from uedpo.weights.probe import Signals, WeighedBatch

from .test_report import run_folder


def token(text=" cow", u=0.0, delta=0.0, weight=1.0, **more):
    return {"text": text, "logp": -0.5, "u": u, "delta": delta, "weight": weight, "type": "", **more}


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3.2, 7.9), (1e-9, 2e-9), (5, 5), (-1e6, 3)])
def test_ticks_cover_the_range_in_even_steps(low, high):
    found = ticks(low, high)
    assert found[0] <= low
    assert found[-1] >= high
    steps = {round((b - a) / (found[-1] - found[0]), 6) for a, b in itertools.pairwise(found)}
    assert len(steps) == 1
    assert 2 <= len(found) <= 8


def test_thinned_keeps_the_mean():
    points = [(float(i), float(i % 7)) for i in range(1000)]
    thin = thinned([*points, (1000.0, float("nan"))])
    assert len(thin) <= MOST_POINTS
    assert sum(y for _, y in thin) / len(thin) == pytest.approx(sum(y for _, y in points) / 1000, abs=0.05)


def test_charts_are_well_formed_and_titled():
    for svg in (
        line_chart("c", "a < b", [Line("x", [(0, 1), (1, 2)], 0), Line("none", [], 1)]),
        fan_chart("c", "a < b", [0, 5], [[0, 1, 2, 3, 4]] * 2, 1),
    ):
        root = ET.fromstring(svg)
        assert root.attrib["aria-labelledby"] == root[0].attrib["id"] == "c"
        assert root[0].text == "a < b"


def test_scale_has_nine_levels_around_neutral():
    scale = Scale(1.0, 0.4)
    assert [scale.level(1 + x) for x in (-0.5, -0.4, -0.21, -0.04, 0, 0.04, 0.1, 0.3, 9)] == [
        -4, -4, -2, 0, 0, 0, 1, 3, 4,
    ]  # fmt: skip
    assert [index(level) for level in (-4, -1, 0, 1, 4)] == [8, 5, 0, 1, 4]
    assert [row["text"] for row in scale.legend()][::4] == ["below 0.65", "0.95 to 1.05", "above 1.35"]


def test_heat_has_levels_before_and_after():
    whens = {"before": [token(), token(" x", u=2.0)], "after": [token(weight=1.3), token(" x", delta=-1.0)]}
    scale = scales([{"chosen": whens, "rejected": whens}])
    assert heat(whens, scale, numbers=False) == '<i class="W4">cow</i> <i class="u4 D8">x</i>'
    shown = heat(whens, scale, numbers=True)
    assert 'data-ub="2.00"' in shown
    assert "trained: log p -0.50, u 0.00, Δ -1.00, λ 1.000" in shown


def test_heat_marks_words_that_are_wrong():
    whens = {"before": [token(right=False, word="cow"), token(right=False, word="")]}
    assert heat(whens, None, numbers=False) == '<i class="x">cow</i> cow'


def test_strongest_names_the_weights_farthest_from_one():
    tokens = [token(f" t{i}", weight=w) for i, w in enumerate((1.0, 1.1, 1.3, 0.95, 1.2))]
    assert strongest(tokens, "chosen") == "Pressed hardest: “t2” 1.30, “t4” 1.20, “t1” 1.10 (λ, base model)."
    assert strongest([token()], "rejected") == ""


def test_pictures_are_shared_shrunk_and_never_fetched():
    url = picture_url(Image.new("RGB", (200, 100), (10, 200, 30)))
    pictures = Pictures(1000)
    first, second = pictures.add(url), pictures.add(url)
    other = pictures.add(picture_url(Image.new("RGB", (20, 20), (1, 2, 3))))
    assert first is second
    assert (first.width, first.height) == (80, 40)
    assert list(pictures.shared()) == [first.name] != [other.name]
    for bad in (
        None,
        3,
        "http://x/",
        "data:image/svg+xml;base64,AA==",
        "data:image/png;base64,AA==",
        "cat.jpg",
    ):
        assert pictures.add(bad) is None


def test_class_table_means_by_hand():
    about = {"kind": "object", "size": "small", "word": "cow"}
    tokens = [token(u=1.0, weight=1.2, right=True, **about), token(u=0.0, right=True, **about),
              token(u=3.0, right=False, **about)]  # fmt: skip
    table = class_table([{"chosen": {"before": tokens}, "rejected": {"before": tokens[:1]}}])
    small, absent = table["chosen"]
    assert (small["class"], small["tokens"]) == ("small object in the background", 2)
    assert small["before"] == {
        "logp": -0.5,
        "selected": 0.0,
        "zero": 0.5,
        "u": 0.5,
        "delta": 0.0,
        "weight": 1.1,
    }
    assert (absent["class"], absent["before"]["u"]) == ("object that is not there", 3.0)


def test_distribution_quantiles_by_hand():
    u = torch.tensor([[0.0, 1.0, 2.0, 3.0, 4.0, 99.0], [5.0, 5.0, 5.0, 5.0, 5.0, 99.0]])
    mask = torch.tensor([[True] * 5 + [False]] * 2)
    weights = torch.ones(2, 6)
    weights[0, 1:3] = torch.tensor([1.1, 1.3])
    line = distribution(WeighedBatch(7, mask, Signals(u, -u, mask, weights), weights))
    assert line["step"] == 7
    assert line["uncertainty"] == {"chosen": [0.2, 1.0, 2.0, 3.0, 3.8], "rejected": [5.0] * 5}
    assert line["weight"] == {"chosen": [1.11, 1.15, 1.2, 1.25, 1.29], "rejected": None}
    assert line["reweighted"] == {"chosen": 0.4, "rejected": 0.0}
    assert distribution(WeighedBatch(7, mask, None, weights))["uncertainty"] is None


def test_report_is_built_from_what_there_is(tmp_path):
    folder = run_folder(tmp_path / "run")
    for name in ("metrics.json", "metrics.csv", "traces.json"):
        (folder / name).unlink()
        page = write_report(folder).read_text()
    assert "Reproduce" in page
    assert '<section id="results"' not in page


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("traces.json", '[{"id": "x"}]'), ("traces.json", "[1]"), ("traces.json", "{"),
        ("metrics.json", "[]"),
        ("metrics.csv", "step,train/loss\n0,x\n"), ("classes.json", "{}"), ("environment.json", "[]"),
        ("distributions.jsonl", "x\n"), ("config.yaml", "a: b"), ("config.yaml", "{"),
    ],
)  # fmt: skip
def test_broken_files_are_one_line_and_leave_the_page(tmp_path, file, text):
    folder = run_folder(tmp_path / "run")
    (folder / "report.html").write_text("the page before")
    (folder / file).write_text(text)
    with pytest.raises(InputError, match=file) as caught:
        write_report(folder)
    assert len(str(caught.value).splitlines()) == 1
    assert (folder / "report.html").read_text() == "the page before"


def test_numbers_that_are_texts_are_refused(tmp_path):
    folder = run_folder(tmp_path / "run")
    traces = json.loads((folder / "traces.json").read_text())
    traces[0]["chosen"]["before"][0]["u"] = "<script>"
    (folder / "traces.json").write_text(json.dumps(traces))
    with pytest.raises(InputError, match=r"traces\.json"):
        write_report(folder)
