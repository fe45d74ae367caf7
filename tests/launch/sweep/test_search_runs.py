"""Searches that really train: pruning, several ranks, and launchers, on the shapes sample."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import forked
import optuna
import pytest
import yaml
from command import fork_mmft

import mmft.commands.train as program
from mmft.build import Run
from mmft.cli.main import main
from mmft.commands.train import train
from mmft.config.compose import compose
from mmft.errors import ExitCode, UserError
from mmft.ranks import started
from mmft.run_folder import STUDY, newest_unfinished
from mmft.training.trial import NAME, mark_as_trial, open_storage

SEARCH = ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=4", "hydra.sweep.dir=sweep"]
LR = "optim.lr=tag(log, interval(1e-5, 1e-3))"
TWO = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]
PRUNER = {"name": "median", "startup_trials": 1, "warmup_epochs": 0, "max_epochs": 4}


def study_of(folder: Path) -> optuna.Study:
    return optuna.load_study(study_name=NAME, storage=open_storage(folder / STUDY))


def begun(folder: Path) -> int:
    """A study in `folder` with one trial that was perfect from the first epoch on, and one that has just begun."""
    folder.mkdir()
    study = optuna.create_study(study_name=NAME, storage=open_storage(folder / STUDY), direction="maximize")
    space = {"seed": optuna.distributions.IntDistribution(0, 9)}
    perfect = study.ask(space)
    for epoch in range(1, 5):
        perfect.report(1.0, epoch)
    study.tell(perfect, 1.0)
    return study.ask(space).number


def test_a_trial_that_is_worse_is_pruned(shapes_overrides: list[str], tmp_path: Path, capfd: Any) -> None:
    number = begun(tmp_path / "sweep")
    run = tmp_path / "sweep" / str(number)
    mark_as_trial(run, tmp_path / "sweep" / STUDY, number, PRUNER)
    composed = compose("train", [*shapes_overrides, "trainer.max_epochs=4"])
    assert train(composed, run) == ExitCode.DONE
    assert capfd.readouterr().out.splitlines()[-1] == str(run)
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["status"], summary["pruned_epoch"], summary["pruned_step"]) == ("pruned", 1, 3)
    assert summary["optimizer_steps"] == 3
    assert summary["monitor"] == "val/accuracy"
    assert 0 <= summary["val"]["accuracy"] < 1
    assert "test" not in summary
    assert not (run / "model").exists()
    assert "Pruned in epoch 1 (optimizer step 3) with val/accuracy" in (run / "train.log").read_text()
    trial = study_of(tmp_path / "sweep").trials[number]
    assert trial.intermediate_values == {1: pytest.approx(summary["val"]["accuracy"])}
    assert newest_unfinished(tmp_path) is None  # nothing to resume, unless by name
    # By name it goes on, to the end, and the study, where the trial is over, stays as it is.
    study_of(tmp_path / "sweep").tell(number, state=optuna.trial.TrialState.PRUNED)
    assert train(composed, run) == ExitCode.DONE
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["status"], summary["resumed_from"]) == ("completed", [3])
    assert list(study_of(tmp_path / "sweep").trials[number].intermediate_values) == [1]


def test_the_last_epoch_is_too_late_to_prune(shapes_overrides: list[str], tmp_path: Path) -> None:
    number = begun(tmp_path / "sweep")
    run = tmp_path / "sweep" / str(number)
    mark_as_trial(run, tmp_path / "sweep" / STUDY, number, PRUNER)
    assert train(compose("train", [*shapes_overrides, "trainer.max_epochs=1"]), run) == ExitCode.DONE
    assert json.loads((run / "summary.json").read_text())["status"] == "completed"
    assert list(study_of(tmp_path / "sweep").trials[number].intermediate_values) == [1]


def test_no_validation_rows(shapes: Any, shapes_overrides: list[str], tmp_path: Path) -> None:
    number = begun(tmp_path / "sweep")
    run = tmp_path / "sweep" / str(number)
    mark_as_trial(run, tmp_path / "sweep" / STUDY, number, PRUNER)
    table = tmp_path / "rows.csv"
    lines = [line for line in shapes.rows.read_text().splitlines() if ",val" not in line]
    table.write_text("\n".join(lines) + "\n")
    rows = [f"data.path={table}", f"data.root={shapes.rows.parent}"]
    with pytest.raises(UserError, match="there are none. Set"):
        train(compose("train", [*shapes_overrides, *rows]), run)


def test_a_search_of_runs(
    shapes_overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    """Values of the study are those of the runs; one trial fails, the others go on."""
    monkeypatch.chdir(tmp_path)
    given = [*shapes_overrides, *SEARCH, LR, "optim.head_lr=1e-3,1e30", "hydra.sweeper.sampler=random"]
    assert main(["train", "-m", *given]) == ExitCode.TRAINING
    out, _ = capfd.readouterr()
    folders = [tmp_path / "sweep" / str(n) for n in range(4)]
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in folders]
    trials = study_of(tmp_path / "sweep").trials
    failed = [float(trial.params["optim.head_lr"].partition("=")[2]) > 1 for trial in trials]
    assert 0 < sum(failed) < 4
    assert [summary["status"] for summary in summaries] == ["failed" if f else "completed" for f in failed]
    assert [trial.state.name for trial in trials] == ["FAIL" if f else "COMPLETE" for f in failed]
    for trial, summary, folder in zip(trials, summaries, folders, strict=True):
        if trial.value is not None:
            assert trial.value == summary["val"]["accuracy"] == max(trial.intermediate_values.values())
        assert yaml.safe_load((folder / "config.yaml").read_text())["optim"]["lr"] == trial.params["optim.lr"]
    assert out.splitlines()[-1] == str(Path("sweep").absolute())
    assert "failed" in out
    with Path("sweep/sweep.csv").open() as file:
        assert [row["status"] for row in csv.DictReader(file)] == [s["status"] for s in summaries]


@pytest.mark.slow
def test_each_rank_trains_with_the_trials_rate(
    shapes_overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_run, noted = program.train_run, tmp_path / "rates.txt"

    def note(run: Run) -> None:
        with noted.open("a") as file:
            file.write(f"{run.folder.path.name} {run.config.optim.lr} {started().rank}\n")
        train_run(run)

    monkeypatch.setattr(program, "train_run", note)
    os.chdir(tmp_path)
    given = [*shapes_overrides, *SEARCH, *TWO, LR, "trainer.max_epochs=1", "hydra.sweeper.sampler=random"]
    assert forked.command(["train", "-m", *given], tmp_path / "out.txt").wait(800) == 0
    lines = [tuple(line.split()) for line in noted.read_text().splitlines()]
    rates = {str(trial.number): str(trial.params["optim.lr"]) for trial in study_of(tmp_path / "sweep").trials}
    assert sorted(lines) == [(number, rates[number], rank) for number in "0123" for rank in "01"]
    assert len(set(rates.values())) == 4


def torchrun(argv: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    ranks = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "mmft"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    words = [sys.executable, *ranks, *argv]
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=800)


START = {"mmft": lambda argv, folder: fork_mmft(*argv, cwd=folder, check=False), "torchrun": torchrun}


@pytest.mark.slow
@pytest.mark.parametrize("start", START)
def test_both_ranks_have_each_trials_parameters(start: str, shapes_overrides: list[str], tmp_path: Path) -> None:
    """Four trials, four folders, whoever starts the ranks; one that is pruned ends on both."""
    given = [*shapes_overrides, *SEARCH, *TWO, LR, "optim.head_lr=1e-2,1e-9", "trainer.max_epochs=3"]
    given += ["hydra.sweeper.pruner=median", "hydra.sweeper.pruner_startup_trials=1", "hydra.sweeper.sampler=random"]
    given += ["checkpoint.monitor=loss"]
    done = START[start](["train", "-m", *given], tmp_path)
    assert done.returncode == 0, done.stderr
    sweep = tmp_path / "sweep"
    assert sorted(path.name for path in sweep.iterdir() if path.is_dir()) == ["0", "1", "2", "3"]
    assert not (tmp_path / "runs").exists()
    trials = study_of(sweep).trials
    for trial in trials:
        summary = json.loads((sweep / str(trial.number) / "summary.json").read_text())
        config = yaml.safe_load((sweep / str(trial.number) / "config.yaml").read_text())
        assert config["optim"]["lr"] == trial.params["optim.lr"]
        assert summary["status"] == {"COMPLETE": "completed", "PRUNED": "pruned"}[trial.state.name]
        steps = (sweep / str(trial.number) / "metrics.csv").read_text()
        assert "train/loss" in steps
    assert "PRUNED" in {trial.state.name for trial in trials}
    assert done.stdout.splitlines()[-1] == str(sweep.absolute())
    assert " pruned " in done.stdout
