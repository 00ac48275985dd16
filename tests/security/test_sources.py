"""What Hydra would act on while it composes, and sweeps without end, are refused before it begins."""

import sys
import time

import pytest
from omegaconf import OmegaConf

from tests.config.test_validate import composed
from uedpo.config.overrides import check_overrides, check_own_config
from uedpo.errors import ConfigError, InputError

PLACES = [
    "[pkg://evil_found]", "[structured://evil_found]", "['${kind}://evil_found']", "${places}",
    "['file:///tmp', pkg://evil_found]", "[PKG://evil_found]",
]  # fmt: skip


@pytest.fixture
def evil(tmp_path, monkeypatch):
    """A module that a search path could import; whether it was is in `sys.modules`."""
    (tmp_path / "evil_found.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    assert "evil_found" not in sys.modules


@pytest.mark.parametrize("places", PLACES)
def test_a_search_path_imports_nothing(evil, tmp_path, places):
    own = f"kind: pkg\nplaces: [pkg://evil_found]\nhydra:\n  searchpath: {places}\n"
    (tmp_path / "mine.yaml").write_text(OmegaConf.to_yaml(composed()) + own)
    with pytest.raises(ConfigError, match=r"hydra\.searchpath: .*give a folder"):
        check_own_config([], str(tmp_path), "mine", None)
    if "$" not in places:
        for call in (check_overrides, lambda o: check_own_config(o, str(tmp_path), "mine", None)):
            with pytest.raises(ConfigError, match=r"hydra\.searchpath: .*give a folder"):
                call([f"hydra.searchpath={places}"])


@pytest.mark.parametrize("group", ["experiment", "experiment/a/b/c/d"])
@pytest.mark.parametrize(
    "default",
    [
        "/loss@other: ${oc.env:UEDPO_CANARY}",
        "/loss@other: ${oc.env:X,dpo}",
        "override /loss: ${oc.env:UEDPO_CANARY}",
    ],
)
def test_the_environment_chooses_no_file(tmp_path, monkeypatch, group, default):
    monkeypatch.setenv("UEDPO_CANARY", "canary")
    (tmp_path / group).mkdir(parents=True)
    key, _, value = default.partition(": ")
    text = f"# @package _global_\ndefaults:\n  - {key}: '{value}'\n"
    (tmp_path / group / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match="is not resolved here; name the file") as caught:
        check_own_config([f"+{group}=mine"], None, None, str(tmp_path))
    assert "canary" not in str(caught.value)


def test_a_file_at_any_depth_is_looked_at_and_only_those_that_are_read(tmp_path):
    deep = tmp_path / "experiment/a/b/c/d"
    deep.mkdir(parents=True)
    (deep / "bomb.yaml").write_text(
        "a: &a [1]\n" + "".join(f"b{n}: {'[' * 60}{']' * 60}\n" for n in range(2))
    )
    (deep / "fine.yaml").write_text("# @package _global_\nseed: 3\n")
    assert check_own_config(["+experiment/a/b/c/d=fine"], None, None, str(tmp_path)).seed == 3
    with pytest.raises(InputError, match="its anchors or nesting"):
        check_own_config(["+experiment/a/b/c/d=bomb"], None, None, str(tmp_path))


SWEEPS = {
    "seed=range(0,1000000000)": "more than 10,000 values",
    "seed=shuffle(range(0,1000000000))": "more than 10,000 values",
    "weights.alpha=range(0,1,0.0000001)": "more than 10,000 values",
    "seed=range(0,1,0)": "more than 10,000 values",
    "weights.alpha=range(0.0,inf)": "more than 10,000 values",
    "loss=glob(*)": r"glob\(...\) is not read here; write the names",
    "+method=glob([a*,b*],exclude=c*)": r"glob\(...\) is not read here; write the names",
    "seed=choice(" + ",".join(map(str, range(9000))) + ")": "characters; at most 20,000",
    "seed=range(0,9000) weights.alpha=0,0.1": "its values have 18,000 combinations; at most 10,000",
}


@pytest.mark.parametrize("line", SWEEPS, ids=lambda line: line[:40])
def test_a_sweep_that_nobody_could_run_is_one_short_line_at_once(tmp_path, line):
    key, _, value = line.partition(" ")[0].partition("=")
    file = {"hydra": {"sweeper": {"params": {key: value}}}}
    (tmp_path / "mine.yaml").write_text(
        OmegaConf.to_yaml(composed()) + OmegaConf.to_yaml(OmegaConf.create(file))
    )
    begin = time.process_time()
    calls = [lambda: check_overrides(line.split(" "), True)]
    calls += [lambda: check_own_config(line.split(" ")[1:], str(tmp_path), "mine", None)]
    for call in calls:
        with pytest.raises(ConfigError, match=SWEEPS[line]) as caught:
            call()
        assert len(str(caught.value)) < 500
    assert time.process_time() - begin < 5
