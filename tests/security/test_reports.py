"""Reports and tables of hostile texts: nothing in them acts."""

import json
import re

import pytest
from omegaconf import OmegaConf

from tests.unit.test_report import HOSTILE, Nodes, run_folder
from uedpo.report.page import write_report
from uedpo.report.summary import table
from uedpo.report.tables import cell
from uedpo.results.runs import Run


@pytest.mark.parametrize(
    "text", [*HOSTILE, "[a](javascript:alert(1))", "a|b", "`x`", "</script><script>x()</script>"]
)
def test_reports_stay_inert(tmp_path, text):
    folder = run_folder(tmp_path / "run", text, name=text)
    config = OmegaConf.load(folder / "config.yaml")
    config.model.path, config.method = text, text
    config.allow_packages = [text]
    config.loss._target_ = text
    OmegaConf.save(config, folder / "config.yaml")
    traces = json.loads((folder / "traces.json").read_text())
    traces[0] |= {"clear_image": text, "corrupted_image": "http://127.0.0.1:9/" + text}
    (folder / "traces.json").write_text(json.dumps(traces))
    nodes, clean = Nodes(), Nodes()
    nodes.feed(write_report(folder).read_text())
    clean.feed(write_report(run_folder(tmp_path / "clean")).read_text())
    assert set(nodes.tags) <= set(clean.tags)
    assert "script" not in nodes.tags
    assert not [name for name, _ in nodes.attributes if name.startswith("on")]
    sources = [value for name, value in nodes.attributes if name in ("src", "href")]
    assert [value for value in sources if not value.startswith(("data:image/webp;base64,", "#"))] == []
    run = Run(text, {}, {"val/loss": 1.0})
    (row,) = table({(text, text): [run]}, ["x", "y"], ["val/loss"], {}).splitlines()[2:]
    assert len(re.findall(r"(?<!\\)\|", row)) == 5
    assert "<" not in row
    assert not re.search(r"(?<!\\)[\[`]", row)
    assert "\x1b" not in cell(text)
