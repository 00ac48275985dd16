"""What pages say that a command prints, or that a list in the code says, is what it prints and says today."""

import re
import subprocess
import sys

import pytest
from omegaconf import OmegaConf

from tests.unit.test_docs import CHOICES, PAGES, ROOT
from uedpo.config.overrides import check_overrides
from uedpo.errors import ConfigError


def page(name):
    return (ROOT / name).read_text(encoding="utf-8")


def fences(text):
    return re.findall(r"```[a-z]*\n(.*?)```", text, re.DOTALL)


def first_column(text, head):
    """Cells of the first column of the table whose header row begins with `head`, code names taken apart."""
    table = text[text.index(f"| {head} ") :].split("\n\n")[0].splitlines()[2:]
    return [name for row in table for name in re.findall(r"`([\w.=]+)`", row.split("|")[1])]


def slug(heading):
    """The anchor that GitHub makes of a heading."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
    return re.sub(r"[^\w\- ]", "", plain.strip().lower()).replace(" ", "-")


def test_the_mistakes_in_the_readme_are_answered_as_it_says():
    (shown,) = [f for f in fences(page("README.md")) if "weights.alpa" in f]
    command, _, answer = shown.partition("\n")
    with pytest.raises(ConfigError) as error:
        check_overrides(command.split()[4:])
    assert str(error.value) == answer.rstrip()


def test_the_methods_on_the_pages_are_those_of_the_folder():
    methods = CHOICES["method"]
    text = page("README.md").split("## Methods")[1].split("\n## ")[0]
    listed = text.split("`+method=`")[1].split(":")[0]
    assert set(re.findall(r"\b[a-z]\w*\b", listed)) & methods == methods
    assert (
        set(first_column(page("docs/methods.md"), "`+method=`")) | {"ue_dpo_reuse", "ue_dpo_every4"}
        == methods
    )


def test_numbers_of_methods_and_seeds_are_those_of_the_experiments():
    words = {"three": 3, "five": 5, "thirteen": 13, "two": 2}
    about = OmegaConf.to_container(
        OmegaConf.load(ROOT / "conf/experiment/compare_methods.yaml"), resolve=False
    )
    sweep = about["hydra"]["sweeper"]["params"]
    (methods,) = [v.split(",") for k, v in sweep.items() if k.lstrip("+") in ("method", "tuned")][:1]
    seeds = next(v.split(",") for k, v in sweep.items() if k == "seed")
    found = re.search(r"(\w+) methods, (\w+) seeds", page("README.md"))
    assert [words[w.lower()] for w in found.groups()] == [len(methods), len(seeds)]


def test_the_shipped_model_has_as_many_parameters_as_the_readme_says():
    from safetensors import safe_open

    total = 0
    with safe_open(ROOT / "uedpo/assets/micro_llava/model.safetensors", "pt") as file:
        for key in file.keys():  # noqa: SIM118
            size = 1
            for side in file.get_slice(key).get_shape():
                size *= side
            total += size
    said = re.search(r"of ([\d.]+) M parameters", page("README.md"))[1]
    assert f"{total / 1e6:.1f}" == said


def test_the_models_on_the_page_are_those_of_the_folder():
    text = page("docs/models.md").split("## Families")[1]
    table = text[text.index("| family") :].split("\n\n")[0].splitlines()[2:]
    named = {name.strip() for row in table for name in row.split("|")[2].split(",")}
    assert named | {"micro_llava"} == CHOICES["model"]


def test_the_codes_of_rejected_rows_are_those_of_the_code():
    sources = "".join(f.read_text(encoding="utf-8") for f in (ROOT / "uedpo/data").rglob("*.py"))
    sources += "".join(f.read_text(encoding="utf-8") for f in (ROOT / "uedpo/model").rglob("*.py"))
    raised = set(re.findall(r'RowProblem\(\s*[^"()]*(?:"[^"]*"|\w+),\s*"([A-Z_]{4,})"', sources))
    listed = set(first_column(page("docs/data.md"), "code"))
    assert len(raised) > 20
    assert raised <= listed, raised - listed
    assert all(f'"{code}"' in sources for code in listed)


def test_the_keys_of_scoring_and_its_metrics_are_those_of_the_code():
    from uedpo.evaluation.score import KEYS

    text = page("docs/evaluation.md").split("## Score")[1]
    table = text[text.index("| key |") :].split("\n\n")[0].splitlines()[2:]
    assert [re.findall(r"`(\w+)`", row.split("|")[1])[0] for row in table] == list(KEYS)


def test_every_command_is_in_the_layout():
    named = set(re.findall(r"python -m (uedpo[\w.]*)", page("docs/layout.md")))
    named |= {"uedpo.evaluation.judge", "uedpo.evaluation.score", "uedpo.evaluation.table"}
    others = re.findall(r"`uedpo (list|doctor|completion)", page("docs/layout.md"))
    named |= {f"uedpo.cli.{name}" for name in others}
    files = [f for f in (ROOT / "uedpo").rglob("*.py") if 'if __name__ == "__main__":' in f.read_text()]
    modules = {
        ".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__") for f in files
    } - {"uedpo", "uedpo.runtime.watch"}
    small = {"uedpo.evaluation.merge", "uedpo.microworld.negatives", "uedpo.microworld.assets"}
    assert modules - small == named
    text = "".join(page(str(p.relative_to(ROOT))) for p in PAGES)
    assert all(f"python -m {name}" in text for name in small)


@pytest.mark.parametrize("file", PAGES, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_link_leads_somewhere(file):
    text = re.sub(r"```.*?```", "", file.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|srcset|href)="([^"]+)"', text)
    for link in links:
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (file.parent / path).resolve() if path else file
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {slug(h) for h in headings}, link


def shown_plan():
    (shown,) = [f for f in fences(page("docs/plan.md")) if f.startswith("model: ")]
    return shown


def test_the_head_of_the_plan_is_what_it_prints():
    from uedpo.plan.__main__ import checked
    from uedpo.plan.count import setting_of
    from uedpo.plan.devices import device_of
    from uedpo.plan.table import head_lines

    own = checked({})
    setting = setting_of(check_overrides([]), own.rows, None, None, None)
    lines = head_lines(setting, own.device, device_of(own.device, None, None))
    assert shown_plan().startswith("\n".join(lines) + "\n")


@pytest.mark.slow
def test_the_table_of_the_plan_is_what_it_prints():
    shown = shown_plan()
    printed = subprocess.run(
        [sys.executable, "-m", "uedpo.plan"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert printed.stdout.strip() == shown.strip()
