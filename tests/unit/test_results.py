import json
import multiprocessing
import re
import subprocess

import pytest
from omegaconf import OmegaConf

from tests.rows_of_results import CONFIG, config, row, stored
from uedpo.config.overrides import conf_folder
from uedpo.errors import InputError
from uedpo.results import rekey
from uedpo.results.keys import BASE, base_config, differing, key_of, method_name, value_of
from uedpo.results.store import append_row, check_appendable, pack, read_rows, unpack
from uedpo.runtime import versions


@pytest.fixture
def file(tmp_path):
    return stored(tmp_path / "results.jsonl")


def test_config_of_a_trial_leaves_out_what_cannot_change_a_result():
    assert config()["loss"]["beta"] == 4
    same = config(name="x", threads=2, results="y", logger={}, callbacks={})
    assert key_of(same) == key_of(config())
    assert key_of(config(seed=1)) != key_of(config())
    base = base_config(OmegaConf.create(CONFIG))
    assert base == {"method": BASE, "model": {"path": "m"}, "evaluation": {"start": 5}}


def test_method_name_falls_back_to_loss_and_control():
    assert method_name(config()) == "DPO"
    plain = config(method=None, loss={"_target_": "uedpo.loss.ue_dpo.ue_dpo_loss"})
    assert method_name(plain) == "UE-DPO"
    assert method_name(plain | {"weights": {"control": "shuffled"}}) == "UE-DPO (control: shuffled)"
    assert value_of(plain, "method") == "UE-DPO"
    assert value_of(plain, "optim.lr") == 0.1
    assert value_of(plain, "weights.alpha") == ""


def test_differing_names_leaves_that_differ_or_are_absent():
    a, b = {"x": {"y": 1, "z": 2}, "s": 0}, {"x": {"y": 1, "z": 3, "w": 4}, "s": 1}
    assert differing([a, b], ["s"]) == ["x.w", "x.z"]
    assert differing([a, b], ["s", "x"]) == []
    assert differing([a], []) == []


def test_pack_is_undone_by_unpack():
    rows = [{"a": 0, "b": 255}, {"a": 7, "b": 1}]
    table = unpack(json.loads(json.dumps(pack(rows))))
    assert table["a"].tolist() == [0, 7]
    assert table["b"].tolist() == [255, 1]
    with pytest.raises(ValueError, match=r"\[0, 255\]"):
        pack([{"a": 256}])


def test_an_option_at_its_neutral_value_leaves_the_key_as_it_was():
    before = config(weights={"alpha": 0.3})
    assert config(weights={"alpha": 0.3, "every_n_steps": 1, "reuse": False}) == before
    for changed in ({"every_n_steps": 2}, {"reuse": True}):
        assert key_of(config(weights={"alpha": 0.3, **changed})) != key_of(before)


def test_what_only_saves_time_is_no_part_of_the_key():
    assert config(feature_cache="a", reference_cache="b", threads=2) == config()


def test_rows_come_back_by_key_and_the_first_of_two_wins(tmp_path):
    path = tmp_path / "deep" / "results.jsonl"
    assert read_rows(path) == {}
    first = row("DPO", 0, 0.5)
    append_row(path, first)
    append_row(path, first | {"seconds": 9.0})
    assert read_rows(path) == {key_of(config(method="DPO", seed=0)): first}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda line: line[:40], "not a row of results"),
        (lambda line: "[1]", "not a row of results"),
        (lambda line: line.replace('"seconds"', '"second"'), "no seconds"),
        (lambda line: line.replace('"lr": 0.1', '"lr": 0.2'), "key is not that of its config"),
        (lambda line: line.replace('"data": "', '"data": "AAAA'), "not a row of results"),
        (lambda line: line.replace('"scenes": 200', '"scenes": 199'), "not a row of results"),
    ],
)
def test_broken_lines_are_named(file, damage, message):
    lines = file.read_text().splitlines()
    lines[1] = damage(lines[1])
    file.write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError) as caught:
        read_rows(file)
    text = str(caught.value)
    assert text.startswith(f"{file}:2: ")
    assert message in text
    assert "\n" not in text


def _append_many(path, worker):
    for i in range(40):
        append_row(path, row(f"m{worker}", i, 0.5))


def test_parallel_runs_never_mix_lines(tmp_path):
    path = tmp_path / "results.jsonl"
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_append_many, args=(path, n)) for n in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(read_rows(path)) == 80


def test_only_changes_of_package_or_configs_make_a_version_dirty(tmp_path, monkeypatch):
    def git(*command):
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", str(tmp_path), *who, *command], check=True, capture_output=True)

    for name in ("uedpo/results/store.py", "conf/config.yaml", "experiments/results.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("one\n")
    git("init")
    git("add", ".")
    git("commit", "-m", "one")
    monkeypatch.setattr(versions, "__file__", str(tmp_path / "uedpo/runtime/versions.py"))
    version = versions.code_version.__wrapped__
    clean = version()
    assert len(clean) == 12
    (tmp_path / "experiments/results.jsonl").write_text("two\n")
    assert version() == clean
    (tmp_path / "conf/config.yaml").write_text("two\n")
    assert version() == f"{clean}-dirty"


def test_a_results_file_that_cannot_be_written_is_named_before_training(tmp_path):
    check_appendable(tmp_path / "deep" / "new.jsonl")
    assert list((tmp_path / "deep").iterdir()) == []
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "x.jsonl"):
        with pytest.raises(InputError, match=rf"results={path}: cannot be written .*name another file"):
            check_appendable(path)


def test_a_class_that_moves_keeps_its_rows():
    def at(target):
        return config(loss={"_target_": target, "beta": 0.1})

    assert at("uedpo.loss.dpo.dpo_loss") == at("uedpo.elsewhere.dpo_loss")
    assert key_of(at("uedpo.loss.dpo.dpo_loss")) != key_of(at("uedpo.loss.dpo.other_loss"))
    assert key_of(at("mine.dpo_loss")) != key_of(
        at("yours.dpo_loss")
    )  # packages of others have no such promise


def test_no_two_targets_share_a_name():
    targets = set()
    for file in conf_folder().rglob("*.yaml"):
        targets |= set(re.findall(r"_target_: (uedpo\.\S+)", file.read_text()))
    names = [target.rsplit(".", 1)[-1] for target in targets]
    assert len(names) > 25
    assert sorted(names) == sorted(set(names))


def test_rekey_finds_rows_whose_classes_have_moved(tmp_path, capsys, monkeypatch):
    path = tmp_path / "r.jsonl"
    now = row("DPO", 0, 0.5, loss={"_target_": "uedpo.dpo_loss"})
    old_config = now["config"] | {"loss": {"_target_": "uedpo.old.dpo_loss"}}
    for _ in range(2):  # two runs at once may both have stored a row
        append_row(path, now | {"config": old_config, "key": key_of(old_config)})
    append_row(path, row("DPO", 1, 0.5))
    assert now["key"] not in read_rows(path)
    monkeypatch.setattr("sys.argv", ["rekey", str(path)])
    assert rekey.main() == 0
    assert "2 rows rewritten" in capsys.readouterr().out
    assert len(path.read_text().splitlines()) == 3
    assert read_rows(path)[now["key"]] == now
    before = path.stat().st_mtime_ns
    assert rekey.main() == 0
    assert path.stat().st_mtime_ns == before
    monkeypatch.setattr("sys.argv", ["rekey", str(tmp_path / "none.jsonl")])
    assert rekey.main() == 2
    assert "no such file" in capsys.readouterr().err


def test_the_stored_rows_of_the_experiments_are_up_to_date():
    files = [
        f for f in (conf_folder().parent / "experiments").rglob("*.jsonl") if '"key"' in f.read_text()[:9]
    ]
    rows = [r for file in files for r in read_rows(file).values()]
    assert len(rows) >= 300
    assert all(rekey.rekeyed(r) == r for r in rows)
