"""A run directory of somebody else: no value of this machine's environment, no file of elsewhere, no bomb."""

import json
import os

import pytest
from omegaconf import OmegaConf

from tests.config.test_validate import composed
from tests.security.limits import one_line
from tests.unit.test_report import run_folder
from uedpo.compare import compare
from uedpo.errors import InputError
from uedpo.export import export
from uedpo.model.hf import HFModel, lora
from uedpo.report.page import write_report
from uedpo.runtime.redact import known_secrets, looks_secret, redact

CANARY = "canary-of-the-environment"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A whole run, as `uedpo.run` leaves one."""
    folder = tmp_path_factory.mktemp("run")
    OmegaConf.save(composed(), folder / "config.yaml", resolve=True)
    (folder / "metrics.json").write_text(json.dumps({"before": None, "after": None}))
    about = {"versions": {"python": "3"}, "data_sha256": "0", "model_sha256": None, "rows": {}}
    (folder / "environment.json").write_text(json.dumps(about))
    (folder / "metrics.csv").write_text("step,val/loss\n1,0.5\n")
    policy, _ = HFModel("uedpo:micro_llava", lora=lora(r=2, alpha=4.0)).load()
    policy.save_pretrained(folder / "adapter")
    return folder


@pytest.fixture
def run(finished, tmp_path, monkeypatch):
    import shutil

    monkeypatch.setenv("CANARY", CANARY)
    monkeypatch.setenv("WANDB_API_KEY", CANARY)
    return shutil.copytree(finished, tmp_path / "run")


def hold_no(folder, text):
    return [p for p in folder.rglob("*") if p.is_file() and text.encode() in p.read_bytes()] == []


INTERPOLATIONS = [
    "${oc.env:CANARY}", "x${oc.env:CANARY}", "${ oc.env : CANARY }", "${oc.${seed}:CANARY}", "${seed}",
    "${oc.decode:${oc.env:CANARY}}",
]  # fmt: skip
KEYS = ["name", "method", "model.path", "data.train._target_", "loss.beta", "callbacks.x", "extra.deep"]


@pytest.mark.parametrize("value", INTERPOLATIONS)
@pytest.mark.parametrize("key", KEYS)
@pytest.mark.cases(6)
def test_a_stored_configuration_is_not_resolved(run, tmp_path, key, value, capfd):
    cfg = OmegaConf.load(run / "config.yaml")
    OmegaConf.update(cfg, key, value, force_add=True)
    (run / "config.yaml").write_text(OmegaConf.to_yaml(cfg))
    for call in (
        lambda: export([str(run)], str(tmp_path / "out")),
        lambda: compare([run], tmp_path / "table"),
        lambda: write_report(run),
    ):
        with pytest.raises(InputError, match=r"holds \$\{...\}, which no run stores"):
            call()
    assert hold_no(tmp_path, CANARY)
    assert CANARY not in "".join(capfd.readouterr())


def test_overrides_and_keys_are_not_resolved_either(run, tmp_path, capfd):
    (run / "command.json").write_text('{"overrides": ["name=${oc.env:CANARY}"]}')
    assert "oc.env:CANARY" in compare([run], tmp_path / "table")  # as it stands there
    (run / "command.json").write_text('{"overrides": ["seed=1"]}')
    assert "seed=1" in compare([run], tmp_path / "table")
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text + "'${oc.env:CANARY}': 1\n")
    with pytest.raises(InputError, match=r"holds \$\{"):
        compare([run], tmp_path / "table")
    assert hold_no(tmp_path, CANARY)


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
)
YAMLS = {
    "anchors": (BOMB, "its anchors or nesting"),
    "itself": ("a: &a [*a]\n", "its anchors or nesting"),
    "deep": ("[" * 100_000, "its anchors or nesting"),
    "deep blocks": ("\n".join(" " * i + "a:" for i in range(200)), "its anchors or nesting"),
    "large": ("a: " + "x" * 2**21, "more than 1,048,576 bytes"),
    "tag": ("a: !!python/object/apply:os.system ['true']\n", "could not determine a constructor"),
    "bytes": ("a: \x00", "special characters"),
    "list": ("- 1\n", "not a configuration"),
}


@pytest.mark.parametrize("name", YAMLS)
def test_yaml_that_is_none_is_one_line(run, tmp_path, name):
    text, said = YAMLS[name]
    (run / "config.yaml").write_text(text)
    for call in (
        lambda: export([str(run)]),
        lambda: compare([run], tmp_path / "t"),
        lambda: write_report(run),
    ):
        assert said in one_line(call)


@pytest.mark.parametrize("name", ["metrics.json", "environment.json"])
@pytest.mark.parametrize("text", ["[" * 10**6, '{"a":' * 10**6, "[]", "1", "NaN", " " * 2**23 + "{}"])
def test_json_that_is_none_is_one_line(run, tmp_path, name, text):
    (run / name).write_text(text)
    assert name in one_line(lambda: export([str(run)])) or "not a whole run" in one_line(
        lambda: export([str(run)])
    )
    if name == "metrics.json":
        one_line(lambda: compare([run], tmp_path / "t"))


def test_a_whole_run_of_somebody_else_is_exported_and_compared(run, tmp_path, capsys):
    assert export([str(run)], str(tmp_path / "out")) == 0
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "README.md", "adapter_config.json", "adapter_model.safetensors",
    }  # fmt: skip
    compare([run], tmp_path / "table")


LINKS = ["secret.json", "config.json", "adapter_config.json", "adapter_model.safetensors", "x.safetensors"]


@pytest.mark.parametrize("name", LINKS)
def test_what_lies_beside_an_adapter_is_not_published(run, tmp_path, name):
    secret = tmp_path / "secret.json"
    own = run / "adapter" / name
    secret.write_bytes(own.read_bytes() if own.exists() else json.dumps({"key": CANARY}).encode())
    if name == "x.safetensors":
        secret.write_bytes((run / "adapter" / "adapter_model.safetensors").read_bytes())
    own.unlink(missing_ok=True)
    os.symlink(secret, own)
    out = tmp_path / "out"
    if name in ("secret.json", "x.safetensors"):
        assert export([str(run)], str(out)) == 0
        assert name not in {p.name for p in out.iterdir()}
    else:
        with pytest.raises(InputError, match=r"a link that leaves the folder|a link, or no regular file"):
            export([str(run)], str(out))
        assert not out.exists()


def test_an_adapter_elsewhere_is_not_published(run, tmp_path):
    (run / "adapter").rename(tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", run / "adapter")
    with pytest.raises(InputError, match="adapter: a link"):
        export([str(run)], str(tmp_path / "out"))


def test_reports_of_somebody_else_s_run_hold_no_value_of_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("CANARY", CANARY)
    folder = run_folder(tmp_path / "run", "a ${oc.env:CANARY} b")
    write_report(folder)
    assert hold_no(tmp_path, CANARY)


@pytest.mark.parametrize(
    "name",
    ["PGPASSWORD", "MYSQL_PWD", "DB_PASS", "SSHPASS", "REDISCLI_AUTH", "STRIPE_KEY", "SENTRY_DSN", "APIKEY",
     "DBPASSPHRASE", "RAILS_SECRET_KEY_BASE", "NPM_TOKEN", "GOOGLE_CREDENTIALS", "XACCESSTOKEN"],
)  # fmt: skip
def test_names_of_variables_that_hold_secrets(monkeypatch, name):
    monkeypatch.setenv(name, CANARY)
    assert CANARY in known_secrets()
    assert CANARY not in redact(f"a {CANARY} b")
    assert looks_secret("name", f"x {CANARY}")


@pytest.mark.parametrize("name", ["PWD", "OLDPWD", "SSH_AUTH_SOCK", "GIT_ASKPASS", "KEYBOARD", "TOKENIZER"])
def test_names_of_variables_that_hold_none(monkeypatch, name):
    monkeypatch.setenv(name, CANARY)
    assert CANARY not in known_secrets()


TABLES = ["a\n" + "x" * 200_000, "step,a\n1,x\n", "step,a\n1," + "9" * 5000 + "x", '"' + "x" * 200_000]


@pytest.mark.parametrize("number", range(len(TABLES)))
def test_tables_that_are_none_are_one_line(run, tmp_path, number):
    (run / "metrics.csv").write_text(TABLES[number])
    with pytest.raises(InputError, match="not a whole run"):
        compare([run], tmp_path / "t")


@pytest.mark.parametrize("name", ["metrics.json", "environment.json", "traces.json", "distributions.jsonl"])
def test_files_of_gigabytes_are_one_line(run, name):
    (run / "environment.json").unlink()  # it is read first
    (run / name).touch()
    os.truncate(run / name, 3 * 2**30)
    assert "which no file of its kind has" in one_line(lambda: write_report(run))
