"""A completed run trains on with more epochs or steps, and ends where a run of that length ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from runs import Run, TrainRun, resumed, same_weights

from mmft.commands.train import train
from mmft.config.compose import compose
from mmft.errors import UserError
from mmft.run.resume import resolve
from mmft.training.callbacks.checkpointing import Checkpointing

# The rates of a constant schedule do not depend on the length of the run.
CONSTANT = ["schedule=constant", "schedule.warmup=0", "trainer.log_every_steps=1"]


def on(overrides: list[str], run: Run, *more: str) -> Run:
    """`mmft train resume=RUN MORE`, with the data and model of the test."""
    kept = [text for text in overrides if not text.startswith(("trainer.max_", *(m.partition("=")[0] for m in more)))]
    return resumed([*kept, *more], run.path)


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (["trainer.max_epochs=2"], ["trainer.max_epochs=4"]),
        (["trainer.max_epochs=9", "trainer.max_steps=4"], ["trainer.max_steps=8"]),  # both within an epoch
        (["trainer.max_epochs=9", "trainer.max_steps=4"], ["trainer.max_epochs=9", "trainer.max_steps=9"]),
        (["trainer.max_epochs=2", "trainer.val_every_steps=2"], ["trainer.max_epochs=3"]),
        (["trainer.max_epochs=9", "trainer.max_steps=5", "trainer.val_every_steps=2"], ["trainer.max_steps=8"]),
    ],
)
def test_two_parts_end_where_one_run_ends(
    train_run: TrainRun, shapes_overrides: list[str], first: list[str], then: list[str]
) -> None:
    whole = train_run(*CONSTANT, *first, *then)
    run = train_run(*CONSTANT, *first)
    steps = run.summary["optimizer_steps"]
    longer = on([*shapes_overrides, *CONSTANT, *first], run, *then)
    assert longer.summary["status"] == "completed"
    assert longer.summary["optimizer_steps"] == whole.summary["optimizer_steps"] > steps
    assert same_weights(longer, whole)
    assert longer.summary["resumed_from"] == [steps]
    assert longer.summary["extended"] == [{"step": steps, "from": steps, "to": whole.summary["optimizer_steps"]}]


def test_a_kill_in_the_second_part_resumes_bit_for_bit(
    train_run: TrainRun, shapes_overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, then = [*CONSTANT, "trainer.max_epochs=9", "trainer.max_steps=4"], "trainer.max_steps=8"
    whole = train_run(*first, then)
    run = train_run(*first)

    def die(*_: Any) -> None:
        raise RuntimeError("dead")  # before the second part's first checkpoint

    with monkeypatch.context() as patch:
        patch.setattr(Checkpointing, "save_last", die)
        with pytest.raises(RuntimeError, match="dead"):
            on([*shapes_overrides, *first], run, then)
    assert run.summary["status"] == "failed"
    assert same_weights(on([*shapes_overrides, *first], run, then), whole)
    assert len(run.summary["extended"]) == 1


def test_the_schedule_is_told_in_one_line(
    train_run: TrainRun, shapes_overrides: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    run = train_run("schedule=cosine", "schedule.warmup=0")
    capsys.readouterr()
    on([*shapes_overrides, "schedule=cosine", "schedule.warmup=0"], run, "trainer.max_epochs=4")
    said = capsys.readouterr().err
    line = next(line for line in said.splitlines() if line.startswith("training on"))
    assert line == (
        "training on after optimizer step 6: 12 steps in all instead of 6. schedule=cosine now spans all of them, so "
        "the factor of the learning rates goes from 0.067 to 0.5"
    )
    assert line in (run.path / "train.log").read_text()
    assert run.metrics.count("\n") > 1
    assert "max_epochs: 4" in (run.path / "config.yaml").read_text()


def test_a_run_that_stopped_early_goes_on(train_run: TrainRun, shapes_overrides: list[str]) -> None:
    stops = ["callbacks.early_stopping.patience=1", "optim.lr=1e-9", "optim.head_lr=1e-9", "trainer.max_epochs=4"]
    run = train_run(*stops, *CONSTANT)
    assert run.summary["optimizer_steps"] == 6
    longer = on([*shapes_overrides, *stops, *CONSTANT], run, "trainer.max_epochs=5")
    assert longer.summary["optimizer_steps"] == 9  # one validation more, without improvement again


@pytest.mark.parametrize(
    ("then", "said"),
    [
        (["trainer.max_epochs=1"], "was started with 2, and 1 would be another experiment"),
        (["trainer.max_epochs=3", "trainer.max_steps=5"], "trainer.max_steps: .* was started with null, and 5"),
        (["trainer.max_epochs=3", "seed=1"], "seed: .* was started with 0"),
    ],
)
def test_what_is_not_more_is_refused(
    train_run: TrainRun, shapes_overrides: list[str], then: list[str], said: str
) -> None:
    run = train_run()
    with pytest.raises(UserError, match=said):
        on(shapes_overrides, run, *then)


def test_a_limit_that_another_one_undercuts_is_told(
    train_run: TrainRun, shapes_overrides: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    run = train_run("trainer.max_steps=6")
    before = run.model_state
    capsys.readouterr()
    again = on(shapes_overrides, run, "trainer.max_epochs=2", "trainer.max_steps=8")
    assert "all 6 steps that trainer.max_epochs and trainer.max_steps allow are done" in capsys.readouterr().err
    assert again.summary["status"] == "completed"
    assert all(bool((before[name] == value).all()) for name, value in again.model_state.items())


def test_without_more_there_is_nothing_to_do(
    train_run: TrainRun, shapes_overrides: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run = train_run()
    before = run.summary
    found = resolve(compose("train", [*shapes_overrides, f"resume={run.path}"]))
    assert found is not None
    assert train(*found) == 0
    assert "already completed" in capsys.readouterr().err
    assert run.summary == before
    assert tmp_path in run.path.parents
