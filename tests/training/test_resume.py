"""A run that was killed or stopped ends, once resumed, exactly where the undisturbed run ends."""

from __future__ import annotations

import os
import random
import shutil
import signal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from runs import Run, TrainRun, killed_run, resumed, same_weights

from mmft import build
from mmft.commands.train import train
from mmft.config.compose import compose
from mmft.errors import ExitCode, UserError
from mmft.run.resume import resolve
from mmft.run_folder import RunFolder
from mmft.signals import Stopped
from mmft.training.callbacks.stopping import StopOnSignal

STEPS = 6  # two epochs of three


@pytest.mark.slow
def test_ten_kills_at_random_steps_end_bit_for_bit_as_undisturbed(
    train_run: TrainRun, shapes_overrides: list[str], tmp_path: Path
) -> None:
    overrides = [*shapes_overrides, "checkpoint.every_steps=1", "trainer.log_every_steps=1"]
    undisturbed = train_run(*overrides[len(shapes_overrides) :])
    rng = random.Random(0)
    for kill in range(10):
        moment = ("before", "while", "after")[kill % 3]
        step = rng.randint(1 if moment == "after" else 2, STEPS)  # at least one checkpoint is there
        folder = tmp_path / f"killed{kill}"
        killed_run(overrides, folder, step, moment)
        run = resumed(overrides, folder)
        assert run.summary["resumed_from"] == [step if moment == "after" else step - 1]
        assert same_weights(run, undisturbed), (step, moment)
        assert run.metrics == undisturbed.metrics, (step, moment)
        assert run.summary["best_step"] == undisturbed.summary["best_step"]
        assert run.summary["test"] == undisturbed.summary["test"]


def test_checkpoints_after_epochs_alone_are_enough(
    train_run: TrainRun, shapes_overrides: list[str], tmp_path: Path
) -> None:
    undisturbed = train_run()
    killed_run(shapes_overrides, tmp_path / "killed", STEPS // 2, "after")
    run = resumed(shapes_overrides, tmp_path / "killed")
    assert run.summary["resumed_from"] == [STEPS // 2]
    assert same_weights(run, undisturbed)
    assert run.metrics == undisturbed.metrics


@pytest.mark.parametrize(
    "optim",
    [
        pytest.param("adamw_8bit", marks=pytest.mark.slow),
        pytest.param("paged_adamw", marks=pytest.mark.slow),
        "paged_adamw_8bit",
    ],
)
def test_moments_of_bitsandbytes_come_back(
    train_run: TrainRun, shapes_overrides: list[str], tmp_path: Path, optim: str
) -> None:
    typed = [f"optim={optim}", "checkpoint.every_steps=1"]
    undisturbed = train_run(*typed)
    in_8_bit = [t for t in undisturbed.weights.values() if t.dtype == torch.uint8]
    assert bool(in_8_bit) == optim.endswith("8bit")
    assert all(t.numel() >= 4096 for t in in_8_bit)
    killed_run([*shapes_overrides, *typed], tmp_path / "killed", 4, "after")
    run = resumed([*shapes_overrides, *typed], tmp_path / "killed")
    assert run.summary["resumed_from"] == [4]
    assert same_weights(run, undisturbed)
    assert run.metrics == undisturbed.metrics


def test_a_kill_before_the_first_checkpoint_starts_anew(
    train_run: TrainRun, shapes_overrides: list[str], tmp_path: Path
) -> None:
    undisturbed = train_run()
    killed_run(shapes_overrides, tmp_path / "killed", 1, "before")
    run = resumed(shapes_overrides, tmp_path / "killed")
    assert "resumed_from" not in run.summary
    assert same_weights(run, undisturbed)
    assert run.metrics == undisturbed.metrics


def test_a_kill_between_last_and_best_when_the_last_step_is_the_best(
    train_run: TrainRun, shapes_overrides: list[str], tmp_path: Path
) -> None:
    overrides = [*shapes_overrides, "trainer.max_epochs=1"]
    undisturbed = train_run("trainer.max_epochs=1")
    killed_run(overrides, tmp_path / "killed", STEPS // 2, "after")
    assert not (tmp_path / "killed" / "checkpoints" / "best").exists()
    run = resumed(overrides, tmp_path / "killed")
    assert same_weights(run, undisturbed)
    assert run.summary["test"] == undisturbed.summary["test"]
    assert run.metrics == undisturbed.metrics


def test_an_early_stop_stays_one(train_run: TrainRun, shapes_overrides: list[str], tmp_path: Path) -> None:
    stops = ["callbacks.early_stopping.patience=1", "optim.lr=1e-9", "optim.head_lr=1e-9", "trainer.max_epochs=9"]
    undisturbed = train_run(*stops)
    overrides = [*shapes_overrides, *stops]
    killed_run(overrides, tmp_path / "killed", undisturbed.summary["optimizer_steps"], "after")
    run = resumed(overrides, tmp_path / "killed")
    assert run.summary["optimizer_steps"] == undisturbed.summary["optimizer_steps"] == STEPS
    assert same_weights(run, undisturbed)
    assert run.metrics == undisturbed.metrics


@pytest.mark.slow
@pytest.mark.parametrize("step", [2, 4, 6])
def test_uneven_epochs_and_rare_validations(
    train_run: TrainRun, shapes_overrides: list[str], tmp_path: Path, step: int
) -> None:
    uneven = ["callbacks.gradient_accumulation.schedule={0: 12, 1: 24}", "trainer.max_epochs=4", "trainer.max_steps=9"]
    overrides = [*uneven, "trainer.val_every_epochs=2", "checkpoint.every_steps=1", "data.num_workers=1"]
    undisturbed = train_run(*overrides)
    killed_run([*shapes_overrides, *overrides], tmp_path / "killed", step, "after")
    run = resumed([*shapes_overrides, *overrides], tmp_path / "killed")
    assert same_weights(run, undisturbed)
    assert run.metrics == undisturbed.metrics


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("where", ["test_step", "save_model", "load_splits"])
def test_signals_outside_training_end_the_run_at_once(
    train_run: TrainRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int, where: str
) -> None:
    import mmft.commands.train as program
    from mmft.training.evaluating import Evaluating

    owner = Evaluating if where == "test_step" else program
    plain = getattr(owner, where)

    def interrupted(*args: Any) -> Any:
        os.kill(os.getpid(), number)
        return plain(*args)

    with monkeypatch.context() as patch:
        patch.setattr(owner, where, interrupted)
        with pytest.raises(Stopped) as stopped:
            train_run(folder=tmp_path / "stopped")
    assert stopped.value.exit_code == code
    assert Run(tmp_path / "stopped").summary["status"] == "stopped"


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, ExitCode.TERMINATED), (signal.SIGINT, ExitCode.INTERRUPTED)]
)
@pytest.mark.parametrize("step", [2, 3])
def test_signals_save_and_stop_with_their_own_code(
    train_run: TrainRun,
    shapes_overrides: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    code: int,
    step: int,
) -> None:
    undisturbed = train_run()
    stop = StopOnSignal.on_train_batch_end

    def send(self: StopOnSignal, trainer: Any, *args: Any) -> None:
        if trainer.global_step == step:
            os.kill(os.getpid(), number)
        stop(self, trainer, *args)

    handler = signal.getsignal(number)
    with monkeypatch.context() as patch:
        patch.setattr(StopOnSignal, "on_train_batch_end", send)
        with pytest.raises(Stopped) as stopped:
            train_run(folder=tmp_path / "stopped")
    assert stopped.value.exit_code == code
    assert Run(tmp_path / "stopped").summary["status"] == "stopped"
    assert signal.getsignal(number) == handler
    run = resumed(shapes_overrides, tmp_path / "stopped")
    assert run.summary["resumed_from"] == [step]
    assert same_weights(run, undisturbed)
    assert run.metrics == undisturbed.metrics


def test_what_is_typed_beside_resume_must_agree(shapes_overrides: list[str], tmp_path: Path) -> None:
    killed_run(shapes_overrides, tmp_path / "killed", 3, "after")
    here = f"resume={tmp_path / 'killed'}"
    for wrong, key in (
        ("optim.lr=0.5", "optim.lr"),
        ("optim=sgd", "optim.type"),
        ("data.batch_size=32", "data.batch_size"),
    ):
        with pytest.raises(UserError, match=key):
            resolve(compose("train", [*shapes_overrides, here, wrong]))
    allowed = resolve(compose("train", [*shapes_overrides, here, "data.num_workers=1"]))
    assert allowed is not None
    assert allowed[0].config.data.num_workers == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: rows.assign(label="x" + rows["label"]), "train has other labels"),
        (lambda rows: rows.assign(text=rows["text"] + "."), "train has other texts"),
        (lambda rows: rows[::-1], "train has other texts and labels and images, or another order of rows"),
        (lambda rows: rows.drop(rows[rows["split"] == "train"].index[3:]), "train has 3 rows, and had "),
        (lambda rows: rows.assign(split=rows["split"].replace({"val": "test", "test": "val"})), "val has"),
    ],
)
def test_the_rows_must_be_those_that_the_run_was_started_with(
    change: Any, said: str, shapes: Any, shapes_overrides: list[str], tmp_path: Path
) -> None:
    rows = pd.read_csv(shapes.rows)
    rows.to_csv(tmp_path / "rows.csv", index=False)
    here = [f"data.path={tmp_path / 'rows.csv'}", f"data.root={shapes.folder}"]
    overrides = [*shapes_overrides, *here, "checkpoint.every_steps=1"]
    killed_run(overrides, tmp_path / "killed", 2, "after")
    change(rows).to_csv(tmp_path / "rows.csv", index=False)
    with pytest.raises(UserError, match=said):
        resumed(overrides, tmp_path / "killed")
    rows.to_csv(tmp_path / "rows.csv", index=False)
    assert resumed(overrides, tmp_path / "killed").summary["status"] == "completed"


def test_a_run_is_found_from_another_folder_than_it_was_started_in(
    shapes_overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("started", "resumed"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "started")
    killed_run([*shapes_overrides, "checkpoint.every_steps=1"], tmp_path / "resumed" / "run", 2, "after")
    monkeypatch.chdir(tmp_path / "resumed")
    found = resolve(compose("train", [*shapes_overrides, "resume=run"]))
    assert found is not None
    assert found[1] == tmp_path / "resumed" / "run"


def test_last_is_the_newest_unfinished_run_of_the_name(
    train_run: TrainRun, shapes_overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    overrides = [*shapes_overrides, f"paths.runs={runs}", "resume=last"]
    assert resolve(compose("train", overrides)) is None
    assert "starting a new one" in capsys.readouterr().err
    killed_run(shapes_overrides, runs / "shapes" / "a", 3, "after")
    train_run(folder=runs / "shapes" / "b")
    (runs / "shapes" / "c").mkdir()  # what a run leaves that failed before its first checkpoint
    (runs / "shapes" / "c" / "config.yaml").write_text("{}")
    (runs / "shapes" / "c" / "summary.json").write_text('{"started": "9999", "status": "failed"}')
    found = resolve(compose("train", overrides))
    assert found is not None
    assert found[1] == runs / "shapes" / "a"
    assert train(*found) == 0
    shutil.rmtree(runs / "shapes" / "c")
    found = resolve(compose("train", overrides))  # all are completed now
    assert found is not None
    assert train(*found) == 0
    assert "already completed" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"^trainer.max_epochs: .* was started with 2, and 1 would be another"):
        resolve(compose("train", [*overrides, "trainer.max_epochs=1"]))  # not "nothing to do"


def test_what_is_no_run_is_told_by_the_typed_key(
    train_run: TrainRun, shapes_overrides: list[str], tmp_path: Path
) -> None:
    train_run(folder=tmp_path / "sweep" / "0")
    with pytest.raises(UserError, match=r"^resume: there is no folder '.*gone'"):
        resolve(compose("train", [*shapes_overrides, f"resume={tmp_path / 'gone'}"]))
    with pytest.raises(UserError, match=r"^resume=.*sweep is not a run folder \(.*\); in it are .*sweep/0"):
        resolve(compose("train", [*shapes_overrides, f"resume={tmp_path / 'sweep'}"]))


def test_a_run_that_is_stopped_while_it_imports_goes_on(
    shapes_overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = tmp_path / "runs"
    overrides = [*shapes_overrides, f"paths.runs={runs}"]
    (runs / "shapes" / "z").mkdir(parents=True)  # what an older mmft has left of one
    (runs / "shapes" / "z" / "summary.json").write_text('{"started": "9999", "status": "stopped"}')

    def stop() -> None:
        raise Stopped(signal.SIGINT, "")

    with monkeypatch.context() as during:
        during.setattr(build, "preload", stop)
        with pytest.raises(Stopped):
            train(compose("train", overrides), runs / "shapes" / "a")
    assert f"mmft train resume={runs / 'shapes' / 'a'}" in (runs / "shapes" / "a" / "train.log").read_text()
    for wanted in ("last", runs / "shapes" / "a"):
        found = resolve(compose("train", [*overrides, f"resume={wanted}"]))
        assert found is not None
        assert found[1] == runs / "shapes" / "a"
        assert train(*found) == 0
    assert Run(runs / "shapes" / "a").summary["optimizer_steps"] == STEPS


def test_a_run_that_is_running_is_left_alone(
    shapes_overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes in one folder would write everything twice."""
    killed_run(shapes_overrides, tmp_path / "run", 3, "after")
    monkeypatch.setattr("mmft.run_folder.folder._PATIENCE", 0.0)
    before = Run(tmp_path / "run").metrics
    with RunFolder(tmp_path / "run").owned():
        with pytest.raises(UserError, match="is running in another process"):
            resumed(shapes_overrides, tmp_path / "run")
        with pytest.raises(UserError, match="is running in another process"):
            train(compose("train", shapes_overrides), tmp_path / "run")
        assert Run(tmp_path / "run").metrics == before
        assert Run(tmp_path / "run").summary["status"] == "running"
    assert resumed(shapes_overrides, tmp_path / "run").summary["status"] == "completed"
