"""`trainer.val_every_steps`: validations within epochs, exact across a resume, and all that hangs on them."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from runs import Run, TrainRun, killed_run, resumed, same_weights

from mmft.config.compose import compose
from mmft.errors import UserError

STEPS = 9  # three epochs of three
BY_TWO = ["trainer.val_every_steps=2", "trainer.max_epochs=3", "trainer.log_every_steps=1"]


def validated(run: Run) -> list[int]:
    """The optimizer steps with a validation, by metrics.csv."""
    rows = csv.DictReader((run.path / "metrics.csv").open())
    return [int(row["step"]) for row in rows if row["val/loss"]]


def same(one: Run, other: Run) -> bool:
    """The same end, bit for bit, on the same way."""
    keys = ("best_step", "model_step", "test", "val", "optimizer_steps")
    return (
        same_weights(one, other)
        and one.metrics == other.metrics
        and all(one.summary[key] == other.summary[key] for key in keys)
    )


def test_every_second_step_is_validated_and_the_best_of_them_kept(train_run: TrainRun) -> None:
    run = train_run(*BY_TWO, "checkpoint.keep=2")
    assert validated(run) == [2, 4, 6, 8]
    assert run.summary["best_step"] in (2, 4, 6, 8)
    kept = {path.name for path in (run.path / "checkpoints").glob("step_*")}
    assert len(kept) == 2
    assert f"step_{run.summary['best_step']}" in kept


@pytest.mark.parametrize("extra", [[], ["callbacks.ema.decay=0.9", "checkpoint.keep=2", "checkpoint.use=soup_greedy"]])
def test_a_kill_between_validations_resumes_bit_for_bit(
    train_run: TrainRun, shapes_overrides: list[str], tmp_path: Path, extra: list[str]
) -> None:
    overrides = [*BY_TWO, *extra]
    undisturbed = train_run(*overrides)
    for step in (2, 4, 8) if not extra else (4,):  # of the saves after validations within epochs
        killed_run([*shapes_overrides, *overrides], tmp_path / f"killed{step}", step, "after")
        run = resumed([*shapes_overrides, *overrides], tmp_path / f"killed{step}")
        assert run.summary["resumed_from"] == [step]
        assert same(run, undisturbed), step


@pytest.mark.slow
@pytest.mark.parametrize("every", [1, 2, 3, 4])
def test_a_kill_at_any_step(train_run: TrainRun, shapes_overrides: list[str], tmp_path: Path, every: int) -> None:
    overrides = [f"trainer.val_every_steps={every}", *BY_TWO[1:], "checkpoint.every_steps=1"]
    undisturbed = train_run(*overrides)
    assert validated(undisturbed) == list(range(every, STEPS + 1, every))
    for step in range(1, STEPS + 1):
        folder = tmp_path / f"killed{step}"
        killed_run([*shapes_overrides, *overrides], folder, step, "while" if step % 2 and step > 1 else "after")
        assert same(resumed([*shapes_overrides, *overrides], folder), undisturbed), step


def test_early_stopping_counts_these_validations(
    train_run: TrainRun, shapes_overrides: list[str], tmp_path: Path
) -> None:
    stops = [*BY_TWO, "callbacks.early_stopping.patience=1", "optim.lr=1e-9", "optim.head_lr=1e-9"]
    undisturbed = train_run(*stops)
    assert validated(undisturbed) == [2, 4]
    assert undisturbed.summary["optimizer_steps"] == 4
    assert undisturbed.summary["stopped_early"]
    killed_run([*shapes_overrides, *stops], tmp_path / "killed", 4, "after")
    run = resumed([*shapes_overrides, *stops], tmp_path / "killed")
    assert same(run, undisturbed)


def test_progress_and_summary_tell_validations_within_an_epoch(
    train_run: TrainRun, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train_run("trainer.val_every_steps=2", "trainer.max_epochs=1", "callbacks.progress=plain")
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("epoch ")]
    assert len(lines) == 2
    assert lines[0].startswith("epoch 1/1  step 2  val/accuracy")
    assert lines[1].startswith("epoch 1/1  done  step 3  loss ")  # not validated, so no figures of step 2
    assert run.summary["val"]["accuracy"] is not None


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["trainer.val_every_steps=2", "trainer.val_every_epochs=2"], "does not go with trainer.val_every_epochs=2"),
        (["trainer.val_every_steps=9", "trainer.max_steps=4"], "there would be no validation. Type 4 or less"),
        (["trainer.val_every_steps=0"], "at least 1"),
    ],
)
def test_what_is_wrong_in_the_config(shapes_overrides: list[str], typed: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        compose("train", [*shapes_overrides, *typed])


def test_an_interval_beyond_the_last_step(train_run: TrainRun) -> None:
    with pytest.raises(UserError, match="training has 6 optimizer steps: there would be no validation"):
        train_run("trainer.val_every_steps=7")
