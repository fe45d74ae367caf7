"""Equal values of the monitored metric: the earlier is the best, but of zeros of a metric of texts the lowest loss."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
from make_shapes import Shapes
from runs import QUICK, Run, killed_run, resumed, same_weights

from mmft.commands.train import train
from mmft.config.compose import compose
from mmft.tasks.metrics.names import rank


def test_the_loss_decides_while_the_metric_is_zero() -> None:
    def before(one: tuple[float, float], other: tuple[float, float], monitor: str = "cider") -> bool:
        ranks = [rank({monitor: value, "loss": loss}, monitor, monitor == "perplexity") for value, loss in (one, other)]
        return ranks[0] < ranks[1]

    assert before((0, 2.0), (0, 3.0))
    assert before((0, 2.0), (0, float("nan")))
    assert before((0.1, 9.0), (0, 2.0))
    assert not before((0.1, 2.0), (0.1, 3.0))
    assert not before((0.1, 3.0), (0.1, 2.0))
    assert before((2.0, 9.0), (3.0, 1.0), "perplexity")
    assert not before((0, 2.0), (0, 3.0), "perplexity")


@pytest.fixture
def typed(shapes: Shapes, language_model_folder: Callable[..., Path]) -> list[str]:
    """A language model that learns, but whose texts are never right: they are shorter than the answers."""
    own = [one for one in shapes.overrides if not one.startswith(("model.text_encoder", "optim.lr="))]
    model = [f"model.text_encoder.name={language_model_folder('llama')}", "model/fusion=projector"]
    written = ["task=generation", "task.max_new_tokens=1", "task.metrics=[exact_match]", "data.columns.label=text"]
    asked = [
        "model.text_encoder.max_length=32",
        "data.columns.text=null",
        "task.prompt='what is it'",
        "task.max_answer_tokens=24",
    ]
    return [*own, *QUICK, *model, *written, *asked, "tune=freeze", "optim.head_lr=3e-3", "trainer.max_epochs=5"]


def losses(run: Run) -> dict[int, float]:
    """Validation losses by optimizer step."""
    rows = csv.DictReader(run.metrics.splitlines())
    return {int(row["step"]): float(row["val/loss"]) for row in rows if row["val/loss"]}


def test_a_run_whose_texts_are_never_right_ends_with_its_lowest_loss(typed: list[str], tmp_path: Path) -> None:
    patience = "callbacks.early_stopping.patience=1"
    assert train(compose("train", [*typed, patience]), tmp_path / "run") == 0
    run = Run(tmp_path / "run")
    found = losses(run)
    assert run.summary["val"]["exact_match"] == 0
    assert run.summary["epochs"] == len(found) == 5  # the loss fell, so that no patience was used up
    assert run.summary["best_step"] == min(found, key=lambda step: found[step]) == max(found)
    told = (run.path / "train.log").read_text()
    assert "val/exact_match was 0 at every validation, so that the lowest val/loss chose" in told
    killed_run([*typed, patience, "checkpoint.every_steps=1"], tmp_path / "killed", 5, "after")
    again = resumed([*typed, patience, "checkpoint.every_steps=1"], tmp_path / "killed")
    assert same_weights(again, run)
    assert again.summary["best_step"] == run.summary["best_step"]


def test_patience_is_used_up_where_the_loss_does_not_fall(typed: list[str], tmp_path: Path) -> None:
    own = [one for one in typed if not one.startswith("optim.head_lr")]
    still = ["optim.head_lr=1e-15", "callbacks.early_stopping.patience=2"]
    assert train(compose("train", [*own, *still]), tmp_path / "run") == 0
    run = Run(tmp_path / "run")
    assert len(set(losses(run).values())) == 1
    assert run.summary["epochs"] == 3
    assert run.summary["best_step"] == min(losses(run))  # the earlier
