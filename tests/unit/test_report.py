import json
from html.parser import HTMLParser

import pytest

from uedpo.errors import InputError
from uedpo.report.page import write_report
from uedpo.results.statistics import ratio_metrics

HOSTILE = ["<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "\"><svg onload=alert(1)>",
           "</div></body>", "javascript:alert(1)", "' onmouseover='alert(1)", "{{ 7 * 7 }}", "&lt;b&gt;",
           "\x1b[31m"]  # fmt: skip


PNG = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAQAAAAECAIAAAAmkwkpAAAAFElEQVR42mPkFNFggAEm"
    "BiSAmwMADl8ATQi7se0AAAAASUVORK5CYII="
)


class Nodes(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.attributes, self.depth = [], [], 0

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs


CONFIG = """\
name: {name}
seed: {seed}
model: {{path: m}}
loss: {{_target_: uedpo.loss.ue_dpo.ue_dpo_loss, beta: 0.1}}
optim: {{lr: 0.1}}
trainer: {{max_steps: 3}}
weights: {{_target_: x, alpha: {alpha}, tau: 0.4, control: none}}
corruption: {{_target_: y, k: 500, schedule: sigmoid}}
"""


def run_folder(path, text="A red cow.", name="n", alpha=0.3, seed=0, hallucinated=1):
    path.mkdir(parents=True)
    keys = ("captions", "mentions", "hallucinated_captions", "present", "found", "small_present",
            "small_found", "attributes", "attributes_right", "positions", "positions_right",
            "words", "pope", "pope_right")  # fmt: skip
    rows = [dict.fromkeys(keys, 1) | {"mentions": 4, "hallucinated": h} for h in (0, hallucinated)]
    metrics = {"shift": ratio_metrics(rows)}
    (path / "metrics.json").write_text(json.dumps({"before": metrics, "after": metrics}))
    token = {"text": text, "logp": -1.0, "u": 2.0, "delta": 0.1, "weight": 1.2, "type": "I"}
    sides = {s: {"before": [token, token | {"type": ""}], "after": [{"text": text, "logp": -1.0}] * 2}
             for s in ("chosen", "rejected")}  # fmt: skip
    traces = [{"id": text, "prompt": text, "clear_image": PNG, **sides}]
    (path / "traces.json").write_text(json.dumps(traces))
    (path / "metrics.csv").write_text("step,train/loss,val/loss\n0,1.0,\n1,0.5,0.7\n")
    (path / "config.yaml").write_text(CONFIG.format(name=json.dumps(name), alpha=alpha, seed=seed))
    return path


@pytest.mark.parametrize("text", HOSTILE)
def test_report_holds_no_active_content_from_text(tmp_path, text):
    page = write_report(run_folder(tmp_path / "run", text, name=text)).read_text()
    nodes = Nodes()
    nodes.feed(page)
    clean = Nodes()
    clean.feed(write_report(run_folder(tmp_path / "clean")).read_text())
    assert nodes.tags == clean.tags
    assert "script" not in nodes.tags
    assert not [name for name, _ in nodes.attributes if name.startswith("on")]
    sources = [value for name, value in nodes.attributes if name in ("src", "href")]
    assert sources
    assert [value for value in sources if not value.startswith(("data:image/webp;base64,", "#"))] == []
    assert "default-src 'none'" in page


def test_report_shows_tokens_signals_and_changes(tmp_path):
    page = write_report(run_folder(tmp_path / "run")).read_text()
    for part in ("λ 1.200", "Type I", "CHAIR_i", "12.5", "UE-DPO", "alpha 0.3"):
        assert part in page


def test_the_directory_of_a_sweep_names_its_runs(tmp_path):
    run_folder(tmp_path / "sweep" / "0")
    run_folder(tmp_path / "sweep" / "1")
    sweep = tmp_path / "sweep"
    with pytest.raises(InputError, match="give the directory of a run, as ") as caught:
        write_report(sweep)
    assert str(caught.value).endswith(f"as {sweep}/0; a table of all 2: python -m uedpo.compare {sweep}")
