"""The dashboard names metrics that runs log; saving it needs a server, and is not tested."""

import json
import sys

import pytest

from uedpo import dashboard
from uedpo.errors import InputError
from uedpo.results.statistics import CAPTION_RATIOS


def test_workspace_has_every_panel():
    pytest.importorskip("wandb_workspaces")
    made = dashboard.workspace("team", "uedpo")
    text = json.dumps(made._to_model().model_dump(mode="json"), default=str)
    for panels in dashboard.SECTIONS.values():
        for title, metrics in panels:
            assert title in text
            assert all(metric in text for metric in metrics)
    assert all(f"eval/shift/{metric}" in text for metric in dashboard.FINAL)
    assert "eval/samples" in text


def test_final_metrics_exist():
    assert set(dashboard.FINAL) <= set(CAPTION_RATIOS)


def test_a_missing_package_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports.v2", None)
    with pytest.raises(InputError, match=r"pip install 'uedpo\[wandb\]'"):
        dashboard.workspace("team", "uedpo")
