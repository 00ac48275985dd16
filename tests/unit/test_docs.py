"""Pages name commands, choices and keys that exist."""

import importlib.util
import json
import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from uedpo.config.overrides import conf_folder
from uedpo.config.validate import GROUPS, TOP, schema

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("experiments/*/README.md")])
PAGES = [page for page in PAGES if page.name != "CHANGELOG.md"]
MADE_UP = ("focal", "alpa")  # a loss that a page adds, and a typo that one shows
CHOICES = {
    group.name: {f.stem for f in group.glob("*.yaml")} for group in conf_folder().iterdir() if group.is_dir()
}


def code_of(page):
    """What a page shows as code: in fences, and between backticks."""
    text = page.read_text(encoding="utf-8")
    fences = re.findall(r"```.*?\n(.*?)```", text, re.DOTALL)
    return "\n".join([*fences, *re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))])


def keys_of(node, path=""):
    """Dotted keys below a node of a configuration, and the parameters that its targets take."""
    found = set()
    if "_target_" in node:
        found |= {f"{path}{name}" for name in schema(node["_target_"])[0]}
    for key, value in node.items():
        found.add(f"{path}{key}")
        if isinstance(value, dict):
            found |= keys_of(value, f"{path}{key}.")
    return found


@pytest.fixture(scope="module")
def known():
    keys = set(TOP)
    for group in GROUPS:
        for file in (conf_folder() / group).glob("*.yaml"):
            node = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
            # the files of a logger or a callback say where in the group they belong
            keys |= keys_of({k: v for k, v in node.items() if k != "defaults"}, f"{group}.")
    return keys | {"callbacks.evaluation"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_module_that_a_page_runs_is_there(page):
    for name in set(re.findall(r"python -m (uedpo[\w.]*\w|tests[\w.]*\w)", page.read_text(encoding="utf-8"))):
        assert importlib.util.find_spec(name) is not None, name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_choice_that_a_page_names_is_there(page):
    for group, names in re.findall(r"(?:^|[\s`'\[])\+?(\w+)=([\w,]+)(?=[\s`'\]]|$)", code_of(page)):
        for name in names.split(",") if group in CHOICES else []:
            if name not in ("null", "auto", *MADE_UP) and name and not name[0].isupper():
                assert name in CHOICES[group], f"{group}={name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_key_that_a_page_sets_is_there(page, known):
    groups = "|".join(GROUPS)
    for key in set(re.findall(rf"(?:^|[\s`'])((?:{groups})\.[a-z_.]+)=", code_of(page), re.MULTILINE)):
        assert key in known or key.rpartition(".")[2] in MADE_UP, key


def test_results_that_ran_with_uncommitted_changes_are_counted_where_they_are_shown():
    files = sorted(ROOT.glob("experiments/**/*.jsonl"))
    found = {}
    for file in files:
        rows = [json.loads(line) for line in file.read_text().splitlines() if line.strip()]
        dirty = sum(str(row.get("commit", "")).endswith("-dirty") for row in rows if "commit" in row)
        if dirty:
            found[str(file.relative_to(ROOT / "experiments"))] = dirty
    page = (ROOT / "experiments/README.md").read_text(encoding="utf-8")
    told = {name: int(n) for name, n in re.findall(r"^\| `([\w/]+\.jsonl)` \| (\d+) \|", page, re.MULTILINE)}
    assert told == found
