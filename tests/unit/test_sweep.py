import json

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf, open_dict

from uedpo.compare import compare
from uedpo.config.overrides import conf_folder, missing_plugin
from uedpo.errors import InputError
from uedpo.report.summary import best_text, rerun_command, table
from uedpo.results.keys import key_of, trial_config
from uedpo.results.runs import choose_metric, objective, read_run, runs_of
from uedpo.results.settings import columns, parameters, settings, short
from uedpo.results.statistics import ratio_metrics
from uedpo.results.store import OWN_ROWS, make_row, write_rows
from uedpo.sweep import journal, progress
from uedpo.sweep.trials import jobs, launch_problems, swept_keys, trial_count

COUNTS = ("captions", "mentions", "hallucinated_captions", "present", "found", "small_present",
          "small_found", "attributes", "attributes_right", "positions", "positions_right", "words", "pope",
          "pope_right")  # fmt: skip


def run_folder(path, seed=0, hallucinated=1, overrides=None, evaluated=True, loss=0.5, **keys):
    """A finished run of the micro-world, or one that was only trained."""
    path.mkdir(parents=True)
    config = {
        "name": "n", "seed": seed, "model": {"path": "m"}, "evaluation": {}, "optim": {"lr": 0.1},
        "loss": {"_target_": "uedpo.loss.ue_dpo.ue_dpo_loss", "beta": 0.1},
        "weights": {"alpha": 0.3, "control": "none"},
    }  # fmt: skip
    cfg = OmegaConf.create(config)
    for key, value in keys.items():
        OmegaConf.update(cfg, key.replace("__", "."), value)
    OmegaConf.save(cfg, path / "config.yaml")
    scenes = [dict.fromkeys(COUNTS, 1) | {"mentions": 4, "hallucinated": h} for h in (0, hallucinated)]
    metrics = {"shift": ratio_metrics(scenes)}
    about = {"before": metrics, "after": metrics} if evaluated else {"before": None, "after": None}
    (path / "metrics.json").write_text(json.dumps(about))
    if evaluated:
        write_rows(path / OWN_ROWS, [make_row(trial_config(cfg), metrics, {"shift": scenes}, 1.0)])
    (path / "metrics.csv").write_text(f"step,train/loss,val/loss\n0,1.0,\n1,,{loss}\n")
    return read_run(path, overrides)


def sweep_of(tmp_path):
    return [
        run_folder(
            tmp_path / str(n), seed, h, [f"weights.alpha={alpha}", f"seed={seed}", "threads=1"],
            weights__alpha=alpha,
        )
        for n, (alpha, seed, h) in enumerate([(0, 0, 2), (0, 1, 4), (0.3, 0, 0), (0.3, 1, 0)])
    ]  # fmt: skip


def test_parameters_are_what_the_command_lines_vary_and_seeds_are_none(tmp_path):
    runs = sweep_of(tmp_path)
    assert parameters(runs) == ["weights.alpha"]
    groups = settings(runs, ["weights.alpha"])
    assert {name: [r.seed for r in g] for name, g in groups.items()} == {("0",): [0, 1], ("0.3",): [0, 1]}


def test_parameters_of_runs_without_command_lines_are_those_of_their_configurations(tmp_path):
    runs = [
        run_folder(tmp_path / "a", method="A", optim__lr=0.1),
        run_folder(tmp_path / "b", method="B", optim__lr=0.2),
    ]
    assert parameters(runs) == ["method"]  # the rate follows from the method
    runs.append(run_folder(tmp_path / "c", method="B", optim__lr=0.3))
    assert parameters(runs) == ["method", "optim.lr"]


def test_presets_are_called_by_their_method(tmp_path):
    runs = [
        run_folder(tmp_path / name, overrides=[f"+tuned={name}"], method=name.upper()) for name in ("a", "b")
    ]
    assert parameters(runs) == ["method"]
    assert list(settings(runs, ["method"])) == [("A",), ("B",)]


def test_keys_that_move_no_result_are_no_parameters(tmp_path):
    runs = [
        run_folder(tmp_path / name, overrides=[f"name={name}", f"+experiment={name}", f"results={name}"])
        for name in ("a", "b")
    ]
    assert parameters(runs) == ["experiment"]
    assert list(settings(runs, ["experiment"])) == [("a",), ("b",)]


def test_table_has_means_and_intervals_over_seeds(tmp_path):
    runs = sweep_of(tmp_path)
    metric = choose_metric(runs, None, None)
    groups = settings(runs, ["weights.alpha"])
    text = table(groups, ["weights.alpha"], columns(runs, metric, "shift"), runs[0].base)
    # t(1) = 12.706 times s / sqrt 2 = 12.5
    assert "| 0 | 2 | 37.5 ± 158.8 |" in text
    assert "| 0.3 | 2 | 0.0 ± 0.0 |" in text
    assert "| base model | 1 | 25.0 |" in text
    best = best_text(groups, ["weights.alpha"], metric)
    assert "Best setting by shift/chair_i (lower is better): weights.alpha=0.3, 0.0 ± 0.0 %" in best
    assert "the intervals of 1 other overlap with it" in best
    assert f"Best run: key {key_of(runs[2].config)}, of which a results file has the numbers" in best
    (tmp_path / "2/adapter").mkdir()
    best = best_text(groups, ["weights.alpha"], metric)
    assert f"Best run: {tmp_path}/2 (seed 0), 0.0 %." in best
    assert best.rstrip().endswith(
        "    python -m uedpo.run weights.alpha=0.3 seed=0 threads=1 results=null hydra.mode=RUN"
    )


def test_runs_that_only_trained_are_ranked_by_their_loss(tmp_path):
    for n, loss in enumerate((0.7, 0.4)):
        run_folder(tmp_path / str(n), evaluated=False, loss=loss, optim__lr=n + 1)
    text = compare([tmp_path], tmp_path / "out")
    assert "Best setting by val/loss (lower is better): optim.lr=2, 0.4." in text
    assert "| 1 | 1 | 0.7 | 1 |" in text
    top = compare([tmp_path], tmp_path / "out", metric="train/loss", mode="max")
    assert "Best setting by train/loss (higher is better): optim.lr=1, 1;" not in top
    assert "Best setting by train/loss (higher is better): optim.lr=1, 1." in top
    assert objective(tmp_path / "1", None, None) == 0.4
    assert objective(tmp_path / "1", "train/loss", None) == 1.0
    assert objective(tmp_path, None, None) is None


def test_a_metric_that_no_run_has_or_nobody_knows_is_named(tmp_path):
    runs = sweep_of(tmp_path)
    with pytest.raises(InputError, match=r"metric=val/los: no finished run has it; they have .*val/loss"):
        choose_metric(runs, "val/los", "min")
    with pytest.raises(InputError, match="add mode=min or mode=max"):
        choose_metric(runs, "shift/words", None)
    assert choose_metric(runs, "shift/coverage", None).mode == "max"


def test_seeds_of_one_setting_may_differ_in_nothing_else(tmp_path):
    runs = [run_folder(tmp_path / "0"), run_folder(tmp_path / "1", seed=1, optim__lr=0.2)]
    with pytest.raises(InputError, match=r"2 runs differ in optim\.lr: add it to --by"):
        settings(runs, [])


def test_compare_pairs_the_rows_that_runs_keep_and_draws_two_parameters(tmp_path):
    for n, (alpha, control) in enumerate([(0, "none"), (0, "shuffled"), (0.3, "none"), (0.3, "shuffled")]):
        run_folder(tmp_path / "x" / str(n), hallucinated=n, weights__alpha=alpha, weights__control=control)
    text = compare([tmp_path / "x"], tmp_path / "out", against=("UE-DPO",))
    told = text.split("Difference from UE-DPO")[1]
    # one more mention of 8 is wrong in the shuffled run of each alpha
    assert told.count("| +12.5 [+0.0, +25.0] |") == 2
    for name in ("out.png", "out_parallel.png", "out_differences.png"):
        assert (tmp_path / name).stat().st_size > 1000
    bare = tmp_path / "y"
    run_folder(bare / "0", weights__alpha=0.9)
    (bare / "0" / OWN_ROWS).unlink()
    with pytest.raises(InputError, match="no counts of each scene"):
        compare([tmp_path / "x", bare], tmp_path / "out", against=("UE-DPO",))
    assert len(runs_of(tmp_path)) == 5


def test_a_broken_run_is_named(tmp_path):
    run_folder(tmp_path / "0")
    (tmp_path / "0" / "metrics.json").write_text("{")
    with pytest.raises(InputError, match=r"/0: not a whole run \(.*\); remove it"):
        runs_of(tmp_path)


def test_compare_names_files_and_options_that_cannot_be_used(tmp_path):
    run_folder(tmp_path / "a" / "0")
    out = tmp_path / "out"
    for options, said in (
        ({"out": tmp_path / "no" / "out"}, r"--out .*: no such folder"),
        ({"out": out, "by": ["nonsense"]}, r"--by nonsense: no run has this key"),
        ({"out": out, "where": ["method"]}, r"--where method: write KEY=VALUE"),
    ):
        with pytest.raises(InputError, match=said):
            compare([tmp_path / "a"], **options)
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    with pytest.raises(InputError, match=r"picture\.png: not a file of results"):
        compare([tmp_path / "picture.png"], out)
    (tmp_path / "a" / "0" / "metrics.csv").write_text("step,val/loss\n1,abc\n")
    with pytest.raises(InputError, match=r"/0: not a whole run \(.*abc.*\); remove it"):
        compare([tmp_path / "a"], out)


def test_the_untrained_model_and_a_single_setting_are_told_apart(tmp_path):
    run_folder(tmp_path / "a" / "0")
    text = compare([tmp_path / "a"], tmp_path / "out")
    assert "| base model | 1 | 12.5 |" in text
    assert "| UE-DPO | 1 | 12.5 |" in text


def test_a_setting_without_a_finite_score_is_shown_and_never_the_best(tmp_path):
    for n, loss in enumerate((float("nan"), 0.4)):
        for seed in (0, 1):
            run_folder(
                tmp_path / f"{n}{seed}", seed, evaluated=False, loss=loss, optim__lr=n, weights__alpha=n
            )
    text = compare([tmp_path], tmp_path / "out")
    assert "| 0 | 0 | 2 | nan |" in text
    assert "Best setting by val/loss (lower is better): optim.lr=1 weights.alpha=1, 0.4 ± 0." in text
    for path in tmp_path.glob("1*/metrics.csv"):
        path.write_text("step,val/loss\n1,nan\n")
    assert "No setting has a finite val/loss." in compare([tmp_path], tmp_path / "out")


def test_the_command_to_run_again_leaves_out_where_and_quotes(tmp_path):
    overrides = ["+experiment=x", "results=r.jsonl", "hydra.sweep.dir=d", "hydra/launcher=joblib", "a=[1,2]"]
    run = run_folder(tmp_path / "0", overrides=overrides)
    text = rerun_command(run, ["--config-dir", "my conf"])
    assert text == (
        "python -m uedpo.run --config-dir 'my conf' +experiment=x 'a=[1,2]' results=null hydra.mode=RUN"
    )


def test_short_shows_numbers_to_four_digits():
    assert [short(v) for v in ("0.5488135039273248", "0.1", "uncertainty", "seed")] == [
        "0.5488", "0.1", "uncertainty", "seed",
    ]  # fmt: skip


def begun(folder, key="k1", trial="0", overrides=("a=1",)):
    about = {"key": key, "trial": trial, "overrides": list(overrides)}
    journal.write(folder, "begin", **about)
    return about


def header(folder, total=4, count=2):
    journal.write(folder, "sweep", total=total, jobs=count, swept=["a"], flags=[])


def test_the_journal_tells_what_each_trial_is(tmp_path):
    header(tmp_path)
    done, failed = begun(tmp_path), begun(tmp_path, "k2", "1")
    begun(tmp_path, "k3", "2")
    journal.write(tmp_path, "finish", **done, seconds=3.0)
    journal.write(tmp_path, "fail", **failed, seconds=1.0, reason="why")
    sweep = journal.read(tmp_path)
    assert [(t.folder, t.state, t.reason) for t in sweep.trials.values()] == [
        ("0", "finished", ""), ("1", "failed", "why"), ("2", "running", ""),
    ]  # fmt: skip
    assert sweep.ended == 2
    header(tmp_path)  # the same command again
    journal.write(tmp_path, "skip", **done)
    again = journal.read(tmp_path)
    assert again.trials["k1"].seconds == 3.0
    assert (again.ended, again.seconds, list(again.touched)) == (1, [], ["k1"])


def test_a_line_of_the_journal_that_is_none_is_named(tmp_path):
    header(tmp_path)
    with (tmp_path / journal.NAME).open("a") as file:
        file.write('{"event": "beg\n')
    with pytest.raises(InputError, match=r"trials\.jsonl:2: not a line of a sweep; remove it"):
        journal.read(tmp_path)


def test_a_trial_has_its_old_place_and_never_that_of_another(tmp_path):
    begun(tmp_path, "abcdefgh", "3")
    sweep = journal.read(tmp_path)
    assert journal.place(sweep, "abcdefgh", "5") == "3"
    assert journal.place(sweep, "12345678", "3") == "3_123456"
    assert journal.place(sweep, "12345678", "4") == "4"


def test_what_is_left_is_the_median_of_this_command_times_what_is_to_come(tmp_path):
    header(tmp_path, total=10, count=2)
    assert progress.remaining(journal.read(tmp_path)) is None
    for n, seconds in enumerate((10.0, 20.0, 90.0)):
        journal.write(tmp_path, "finish", **begun(tmp_path, f"k{n}", str(n)), seconds=seconds)
    sweep = journal.read(tmp_path)
    assert progress.remaining(sweep) == 20 * 7 / 2
    assert "3/10 trials, about 70 s left" in progress.bar(sweep)
    assert progress.line(sweep, "k2") == "[3/10] 2: a=1: finished in 90 s; about 70 s left".replace(
        "90 s", "2 min"
    )
    header(tmp_path, total=None)
    assert progress.remaining(journal.read(tmp_path)) is None


def test_progress_is_quiet_where_nobody_looks(tmp_path, capsys):
    header(tmp_path)
    about = begun(tmp_path, overrides=("a=1", "b=2"))
    progress.draw(tmp_path)
    assert capsys.readouterr().out == ""
    journal.write(tmp_path, "fail", **about, seconds=1.0, reason="why")
    progress.tell(tmp_path, "k1")
    shown = capsys.readouterr()
    assert shown.out == "[1/4] 0: a=1: FAILED: why\n"
    assert "\x1b" not in shown.out + shown.err


def composed(*overrides):
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return compose("config", [*overrides, "hydra.mode=MULTIRUN"], return_hydra_config=True)


def with_sweep(cfg, **params):
    with open_dict(cfg):
        cfg.hydra.sweeper.params = params
    return cfg


def test_the_plan_counts_trials_and_those_at_a_time(monkeypatch):
    cfg = composed("+experiment=ablation_alpha")
    assert (trial_count(cfg), jobs(cfg)) == (24, 2)
    assert swept_keys(cfg) == ["seed", "weights.alpha", "weights.control"]
    assert jobs(with_sweep(composed(), seed="range(3)")) == 1
    joblib = with_sweep(composed("hydra/launcher=joblib"), seed="range(3)")
    assert trial_count(joblib) == 3
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    assert jobs(joblib) == 2  # n_jobs is -1


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        (["trainer=ddp_cpu"], "torchrun --nproc-per-node 2 -m uedpo.run"),
        (["trainer=gpu", "hydra/launcher=joblib"], "would share one GPU; set hydra.launcher.n_jobs=1"),
    ],
)
def test_trials_that_their_launcher_cannot_run_are_refused(overrides, part):
    cfg = composed(*overrides)
    (problem,) = launch_problems(cfg, cfg.hydra)
    assert part in problem
    assert "\n" not in problem


def test_ranks_go_with_the_basic_launcher_a_grid_and_one_directory(monkeypatch):
    for name, value in (("TORCHELASTIC_RUN_ID", "x"), ("RANK", "0"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    cfg = composed("trainer=ddp_cpu", "hydra/launcher=joblib")
    text = "\n".join(launch_problems(cfg, cfg.hydra))
    assert "add hydra/launcher=basic" in text
    assert "add hydra.sweep.dir=DIR" in text
    fine = composed("trainer=ddp_cpu", "hydra.sweep.dir=x")
    assert launch_problems(fine, fine.hydra) == []
    one = composed("hydra.sweep.dir=x")
    assert "1 ranks, but torchrun started 2" in launch_problems(one, one.hydra)[0]


def test_a_grid_has_no_intervals():
    cfg = with_sweep(composed(), **{"weights.alpha": "interval(0,1)"})
    assert "add hydra/sweeper=optuna" in launch_problems(cfg, cfg.hydra)[0]


def test_a_missing_plugin_is_what_to_install():
    assert missing_plugin("hydra/launcher/submitit_slurm") == (
        "hydra/launcher=submitit_slurm: needs hydra-submitit-launcher; pip install 'uedpo[sweep]'"
    )
    assert missing_plugin("hydra/launcher/nope") is None
    assert missing_plugin("loss/nope") is None


def test_searches_are_refused_what_they_cannot_honour():
    search = ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=5"]
    cfg = with_sweep(composed(*search, "metric=val/accuracy"), seed="0,1")
    text = "\n".join(launch_problems(cfg, cfg.hydra))
    assert "the luckiest seed" in text
    assert "add hydra.sweeper.direction=maximize" in text
    fine = with_sweep(composed(*search), **{"weights.alpha": "interval(0,1)"})
    assert launch_problems(fine, fine.hydra) == []
    assert (trial_count(fine), jobs(fine)) == (5, 1)
