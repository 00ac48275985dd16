import io
import logging
import sys

import pytest

from tests.config.test_validate import composed, problems
from uedpo.config.overrides import check_arguments
from uedpo.config.trust import trust_problems
from uedpo.errors import ConfigError
from uedpo.runtime.redact import BLOT, install, looks_secret, redact

# assembled, so that scanners of repositories do not take them for real ones
SECRETS = [
    "sk-" + "proj-Ab1" * 5, "hf_" + "aB3x" * 9, "ghp_" + "a1B2" * 9, "github_pat_" + "a1B2" * 9,
    "AKIA" + "ABCD1234" * 2, "AIza" + "a1B2c" * 7, "xoxb-" + "123456789-abc", "glpat-" + "a1B2" * 5,
    "eyJ" + "hbGciOiJI." * 3, "-----BEGIN RSA " + "PRIVATE KEY-----", "https://me:" + "hunter22@host/x",
    "Bearer " + "abcdefgh12345678",
]  # fmt: skip


@pytest.mark.parametrize("secret", SECRETS)
def test_secrets_are_known_by_their_form(secret):
    assert looks_secret("optim.lr", f"x {secret}")
    assert redact(f"a {secret} b").startswith("a ")
    kept = secret.removeprefix("https://").split("@")[0].split()[-1]
    assert kept not in redact(f"a {secret} b")
    text = problems(f"name='{secret}'")
    assert "name: looks like a secret" in text
    assert secret not in text


@pytest.mark.parametrize(
    "name", ["api_key", "OPENAI_API_KEY", "hf_token", "x.password", "client_secret", "token"]
)
def test_secrets_are_known_by_the_name_of_their_key(name):
    assert looks_secret(name, "hunter2")
    assert not looks_secret(name, None)
    assert not looks_secret(name, 12)


def test_what_is_no_secret_passes():
    for name, value in {
        "max_response_tokens": "512", "model.revision": "a" * 40, "name": "task-sk-1", "monitor": "val/loss",
        "image_token": "<image>", "path": "https://host/x:y@z", "token": "",
    }.items():  # fmt: skip
        assert not looks_secret(name, value), name
    assert trust_problems(composed()) == []


def test_values_of_the_environment_are_known(monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "plain-looking-1")
    monkeypatch.setenv("PLAIN", "nothing-to-hide")
    assert looks_secret("name", "a plain-looking-1 b")
    assert not looks_secret("name", "nothing-to-hide")
    assert redact("a plain-looking-1 nothing-to-hide") == f"a {BLOT} nothing-to-hide"


def test_arguments_are_named_without_their_value():
    with pytest.raises(ConfigError) as caught:
        check_arguments(["seed=1", f"+a.b={SECRETS[0]}", "--config-dir=/tmp", "hydra.x.password=hunter2"])
    text = str(caught.value)
    assert "argument 2 (a.b): looks like a secret" in text
    assert "argument 4 (hydra.x.password)" in text
    assert SECRETS[0] not in text
    assert "hunter2" not in text


def test_streams_and_logs_are_redacted(monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "plain-looking-1")
    for name in ("WANDB_CONSOLE", "WANDB_DISABLE_CODE", "WANDB_DISABLE_GIT", "WANDB__DISABLE_META"):
        monkeypatch.setenv(name, "")
    out, err, log = io.StringIO(), io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    factory = logging.getLogRecordFactory()
    logger, handler = logging.Logger("x"), logging.StreamHandler(log)
    logger.addHandler(handler)
    try:
        install()
        install()
        print("a", SECRETS[0], "plain-looking-1")
        sys.stderr.writelines([SECRETS[1] + "\n"])
        logger.error("b %s", SECRETS[2])
        logger.error("malformed %d", "c")
        try:
            raise RuntimeError(f"401 for plain-looking-1 {SECRETS[3]}")
        except RuntimeError:
            logger.exception("failed")
    finally:
        logging.setLogRecordFactory(factory)
    assert out.getvalue() == f"a {BLOT} {BLOT}\n"
    assert err.getvalue().startswith(f"{BLOT}\n")
    assert f"b {BLOT}" in log.getvalue()
    assert f"RuntimeError: 401 for {BLOT} {BLOT}" in log.getvalue()
    assert "install" not in repr(sys.stdout.wrapped)
