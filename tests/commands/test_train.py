"""`mmft train` end to end on the shapes sample: what a run gives, and that it is the same every time."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import Run, TrainRun, same_weights

import mmft
from mmft import build
from mmft.commands.train import train
from mmft.config.schema.model import ENCODERS
from mmft.errors import TrainingError, UserError
from mmft.tasks.classification import Classification
from mmft.training.evaluating import Evaluating
from mmft.training.module import FineTuning

DROPOUT = "model.dropout=0.2"
PINNED = [1.777494, 1.943908, 1.7168, 1.700086, 1.610133, 1.792982]


def _rows(shapes: Any) -> list[dict[str, str]]:
    return list(csv.DictReader(shapes.rows.open()))


def table_of(rows: list[dict[str, str]], shapes: Any, folder: Path) -> list[str]:
    """Writes the sample's rows as they are now; the overrides that name the table."""
    with (folder / "rows.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return [f"data.path={folder / 'rows.csv'}", f"data.root={shapes.rows.parent}"]


def test_workers_and_repetition_change_nothing_and_the_seed_does(train_run: TrainRun) -> None:
    first, again = train_run(DROPOUT), train_run(DROPOUT)
    workers = train_run(DROPOUT, "data.num_workers=2")
    other = train_run(DROPOUT, "seed=1", "data.limit=48")
    assert same_weights(first, again)
    assert same_weights(first, workers)
    assert first.metrics == again.metrics == workers.metrics
    assert not same_weights(first, other)


def test_micro_batches_give_the_same_run_up_to_rounding(train_run: TrainRun) -> None:
    whole = train_run("model.dropout=0", "optim=sgd", "trainer.precision=64-true")
    parts = train_run("model.dropout=0", "optim=sgd", "trainer.precision=64-true", "data.micro_batch_size=5")
    for name, tensor in whole.weights.items():
        assert torch.allclose(tensor, parts.weights[name], atol=1e-12), name


def test_the_run_folder_holds_what_the_contract_says(train_run: TrainRun) -> None:
    run = train_run("modality_report=true", "data.limit=null")
    for name in ("config.yaml", "overrides.yaml", "summary.json", "metrics.csv", "train.log", "tuning.csv"):
        assert (run.path / name).stat().st_size > 0, name
    for name in ("checkpoints/last", "checkpoints/best", "model"):
        assert (run.path / name).is_dir()
    summary = run.summary
    keys = {"status", "test", "val", "monitor", "best_step", "optimizer_steps", "epochs", "train_seconds"}
    keys |= {"fit_seconds", "median_step_seconds", "samples_per_second", "startup_seconds", "import_seconds"}
    keys |= {"peak_memory_bytes", "parameters", "rows", "seed", "versions"}
    assert keys <= set(summary)
    assert summary["status"] == "completed"
    assert summary["rows"] == {"train": 180, "val": 30, "test": 30, "bad": 0}
    assert set(summary["parameters"]) == {"total", "trainable", "image_encoder", "text_encoder", "fusion", "head"}
    metrics = {"accuracy", "auroc", "average_precision", "loss"}
    metrics |= {f"{name}_{by}" for name in ("precision", "recall", "f1") for by in ("macro", "weighted")}
    assert set(summary["test"]) == set(summary["val"]) == metrics
    assert set(summary["modalities"]) == {"majority", "text", "image", "both"}
    assert summary["modalities"]["both"] == summary["test"]["accuracy"]
    assert "majority class" in (run.path / "train.log").read_text()
    matrix = list(csv.reader((run.path / "confusion_matrix.csv").open()))
    assert len(matrix) == 7  # six classes and the header
    assert sum(int(n) for row in matrix[1:] for n in row[1:]) == 30
    no_pickle = {p.suffix for p in run.path.rglob("*") if p.is_file() and p.name != ".lock"}  # which is empty
    assert no_pickle <= {".yaml", ".json", ".csv", ".log", ".safetensors", ".txt"}


def test_shapes_are_learned_and_both_modalities_are_needed(train_run: TrainRun) -> None:
    run = train_run("data.limit=null", "trainer.max_epochs=12", "modality_report=true")
    figures = run.summary["modalities"]
    assert figures["both"] > 0.75
    assert figures["majority"] < 0.3
    assert figures["text"] < 0.7
    assert figures["image"] < 0.7


def test_a_pinned_short_loss_curve(train_run: TrainRun) -> None:
    """The same numbers as when this was written: a change of these is a change of the arithmetic."""
    run = train_run("model.dropout=0", "trainer.precision=64-true", "trainer.log_every_steps=1", "data.drawing=by_row")
    rows = [r for r in csv.DictReader((run.path / "metrics.csv").open()) if r["train/loss"]]
    assert [int(r["step"]) for r in rows] == [1, 2, 3, 4, 5, 6]
    assert [float(r["train/loss"]) for r in rows] == pytest.approx(PINNED, abs=1e-6)


def test_overfits_one_batch(train_run: TrainRun) -> None:
    run = train_run(
        "data.limit=16",
        "data.max_bad_fraction=1",
        "trainer.max_epochs=60",
        "model.dropout=0",
        "trainer.log_every_steps=1",
        "schedule=constant",
    )
    losses = [float(r["train/loss"]) for r in csv.DictReader((run.path / "metrics.csv").open()) if r["train/loss"]]
    assert losses[-1] < 0.05 < 1.0 < losses[0]


def test_max_steps_ends_inside_an_epoch_and_validates(train_run: TrainRun) -> None:
    run = train_run("trainer.max_epochs=5", "trainer.max_steps=7")
    assert run.summary["optimizer_steps"] == 7
    assert run.summary["epochs"] == 3
    validated = [int(r["step"]) for r in csv.DictReader((run.path / "metrics.csv").open()) if r["val/accuracy"]]
    assert validated == [3, 6, 7]


def test_a_schedule_of_batch_sizes(train_run: TrainRun) -> None:
    run = train_run(
        "trainer.max_epochs=3",
        "callbacks.gradient_accumulation.schedule={0: 8, 1: 24}",
        "data.micro_batch_size=8",
        "trainer.log_every_steps=1",
    )
    epochs = [r["epoch"] for r in csv.DictReader((run.path / "metrics.csv").open()) if r["train/loss"]]
    assert [epochs.count(e) for e in "012"] == [6, 2, 2]
    assert run.summary["optimizer_steps"] == 10


def test_the_rates_that_are_written_are_the_schedules(train_run: TrainRun) -> None:
    run = train_run("schedule=linear", "schedule.warmup=2", "optim.head_lr=0.004", "trainer.log_every_steps=1")
    rates = [float(r["lr/head"]) for r in csv.DictReader((run.path / "metrics.csv").open()) if r["lr/head"]]
    assert rates == pytest.approx([0.002, 0.004, 0.004, 0.003, 0.002, 0.001])


def test_early_stopping(train_run: TrainRun) -> None:
    run = train_run(
        "callbacks.early_stopping.patience=1", "optim.lr=1e-9", "optim.head_lr=1e-9", "trainer.max_epochs=9"
    )
    assert run.summary["epochs"] == 2
    assert run.summary["best_step"] == 3  # a tie keeps the earlier


def test_a_metric_that_is_nan_uses_up_no_patience_and_is_told(train_run: TrainRun, shapes: Any, tmp_path: Path) -> None:
    """All validation rows match, so that there is no area under a curve."""
    rows = [r | {"match": "1" if r["split"] == "val" else str(at % 2)} for at, r in enumerate(_rows(shapes))]
    place = [*table_of(rows, shapes, tmp_path), "task=matching", "data.columns.label=match", "task.candidates=0"]
    run = train_run(*place, "callbacks.early_stopping.patience=1", "trainer.max_epochs=4")
    summary, said = run.summary, (run.path / "train.log").read_text()
    assert (summary["epochs"], summary["stopped_early"]) == (4, False)
    assert summary["monitor"] is summary["best_step"] is None
    assert summary["model_step"] == summary["optimizer_steps"]
    assert said.count("WARNING") == said.count("val/auroc is nan: it is never the best") + 1 == 2
    assert "val/auroc was nan at every validation" in said


def test_a_validation_that_is_nan_is_passed_over(train_run: TrainRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the first and the third of them nan, the second is the best, and patience begins at the fourth."""
    measured = Classification.scalars
    values = iter([math.nan, 0.9, math.nan, 0.5, 0.9, 0.9])
    monkeypatch.setattr(Classification, "scalars", lambda *a: measured(*a) | {"accuracy": next(values)})
    run = train_run("callbacks.early_stopping.patience=2", "trainer.max_epochs=9", "checkpoint.keep=3")
    assert (run.summary["epochs"], run.summary["best_step"], run.summary["stopped_early"]) == (5, 6, True)
    assert sorted(path.name for path in (run.path / "checkpoints").glob("step_*")) == ["step_12", "step_15", "step_6"]
    assert "at every validation" not in (run.path / "train.log").read_text()


def test_a_metric_that_there_is_not_is_told_before_the_model_is_built(
    train_run: TrainRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "build_model", lambda *_: pytest.fail("the model is built"))
    with pytest.raises(UserError, match="checkpoint.monitor=r2: this task has no such metric. There are: accuracy,"):
        train_run("checkpoint.monitor=r2")


def test_without_validation_rows_the_last_is_the_finished_model(
    train_run: TrainRun, shapes: Any, tmp_path: Path
) -> None:
    rows = [r for r in csv.DictReader(shapes.rows.open()) if r["split"] != "val"]
    place = table_of(rows, shapes, tmp_path)
    run = train_run(*place)
    assert run.summary["model_step"] == run.summary["optimizer_steps"]
    assert run.summary["best_step"] is run.summary["monitor"] is None
    assert "val" not in run.summary["rows"]
    with pytest.raises(UserError, match=r"early_stopping.patience=2: there are no validation rows"):
        train_run(*place, "callbacks.early_stopping.patience=2")


def test_the_best_checkpoint_is_the_finished_model(train_run: TrainRun) -> None:
    best, last = train_run("trainer.max_epochs=3"), train_run("trainer.max_epochs=3", "checkpoint.use=last")
    assert last.summary["model_step"] == 9
    assert best.summary["model_step"] == best.summary["best_step"] == last.summary["best_step"]
    assert same_weights(best, last)  # training itself is the same
    value = best.summary["val"]["accuracy"]
    validated = [
        float(r["val/accuracy"]) for r in csv.DictReader((best.path / "metrics.csv").open()) if r["val/accuracy"]
    ]
    assert value == max(validated)
    assert best.summary["best_step"] == 3 * (1 + validated.index(value))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_no_number_ends_training_before_it_is_saved(
    train_run: TrainRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    clip: Callable[[FineTuning], Any] = FineTuning._clip

    def explode(self: FineTuning) -> Any:
        if self.global_step == 4:
            self.model.head.weight.grad.fill_(value)
        return clip(self)

    monkeypatch.setattr(FineTuning, "_clip", explode)
    with pytest.raises(TrainingError, match=r"Optimizer step 5 has loss .* and gradient norm (nan|inf)"):
        train_run("checkpoint.every_steps=1", folder=tmp_path / "nan")
    run = Run(tmp_path / "nan")
    assert run.summary["status"] == "failed"
    assert "gradient norm" in run.summary["error"]
    assert "gradient norm" in (run.path / "train.log").read_text()
    assert all(bool(t.isfinite().all()) for t in run.weights.values())  # the last checkpoint is from before it


def test_init_starts_from_another_runs_weights(
    train_run: TrainRun, shapes: Any, image_encoder_folder: Any, tmp_path: Path
) -> None:
    first = train_run("model.dropout=0")
    frozen = ["optim.lr=1e-12", "optim.head_lr=1e-12", "trainer.max_epochs=1", "model.dropout=0"]
    second = train_run(f"init={first.path}", *frozen)
    assert second.summary["test"]["accuracy"] == first.summary["test"]["accuracy"]
    rows = shapes.rows.read_text().replace("red disc", "crimson disc")
    (tmp_path / "rows.csv").write_text(rows)
    other = train_run(
        f"init={first.path}", *frozen, f"data.path={tmp_path / 'rows.csv'}", f"data.root={shapes.rows.parent}"
    )
    assert "the head is new" in (other.path / "train.log").read_text()
    wider = train_run(f"init={first.path}", *frozen, "model.fusion.hidden=64")
    assert "head and fusion are new" in (wider.path / "train.log").read_text()
    with pytest.raises(UserError, match=r"init=.*: its encoders differ: .* Use the same model.image_encoder\.$"):
        train_run(f"init={first.path}", f"model.image_encoder.name={image_encoder_folder('timm_resnet')}")


def test_a_classifier_starts_from_a_contrastive_run(train_run: TrainRun) -> None:
    """No other task can have its fusion: its encoders are what is wanted."""
    short = ["trainer.max_epochs=1", "model.dropout=0", "model.fusion.dropout=0"]
    made = train_run("task=contrastive", "data.columns.label=null", *short, "optim.lr=1e-3")
    for task in (["task=classification"], ["task=matching", "data.columns.label=null"]):
        run = train_run(*task, f"init={made.path}", *short, "optim.lr=1e-12", "optim.head_lr=1e-2")
        said = (run.path / "train.log").read_text()
        assert said.count("init: ") == said.count("head and fusion are new: that run has another fusion") == 1
        encoders = [name for name in made.model_state if name.partition(".")[0] in ENCODERS]
        assert encoders
        for name in encoders:
            assert torch.allclose(run.model_state[name], made.model_state[name], atol=1e-8), name
        assert not any(name.startswith("fusion.image.") for name in run.model_state)


@pytest.mark.parametrize("how", ["init", "random"])
def test_a_frozen_encoder_with_weights_of_its_own_is_saved_with_the_model(
    train_run: TrainRun, shapes: Any, how: str
) -> None:
    """They are not those that the encoder's source has under its hash."""
    if how == "init":
        first = train_run("trainer.max_epochs=4")
        more = [f"init={first.path}"]
    else:
        more = ["model.image_encoder.pretrained=false", "model.text_encoder.pretrained=false"]
    run = train_run(*more, "tune=head_only", "optim.lr=null", "modality_report=false")
    module = Evaluating(mmft.load(run.path).model, mmft.load(run.path).saved.task)
    loaded = module.model.state_dict()
    for name, tensor in run.model_state.items():
        assert torch.equal(loaded[name], tensor), name
    assert {"image_encoder", "text_encoder"} <= {name.partition(".")[0] for name in run.model_state}
    rows = [r | {"image": str(shapes.rows.parent / r["image"])} for r in csv.DictReader(shapes.rows.open())]
    rows = [r for r in rows if r["split"] == "test"]
    right = [a["prediction"] == r["label"] for a, r in zip(mmft.load(run.path).predict(rows), rows, strict=True)]
    assert sum(right) / len(right) == pytest.approx(run.summary["test"]["accuracy"])


def test_init_last_is_the_newest_completed_run(train_run: TrainRun, tmp_path: Path) -> None:
    runs = f"paths.runs={tmp_path / 'runs'}"
    train_run(runs, folder=tmp_path / "runs" / "a" / "1")
    run = train_run(runs, "init=last", "optim.lr=1e-12", "optim.head_lr=1e-12", folder=tmp_path / "runs" / "b" / "1")
    assert run.summary["status"] == "completed"
    with pytest.raises(UserError, match="no completed run"):
        train_run(f"paths.runs={tmp_path / 'none'}", "init=last")


def test_validation_rows_that_cannot_be_read_are_an_error(train_run: TrainRun, shapes: Any, tmp_path: Path) -> None:
    rows = list(csv.DictReader(shapes.rows.open()))
    for row in rows:
        row["image"] = "gone.png" if row["split"] == "val" else row["image"]
    place = table_of(rows, shapes, tmp_path)
    with pytest.raises(UserError, match="No row of val could be read"):
        train_run(*place, "data.max_bad_fraction=1")


def test_too_many_bad_rows_end_the_run(train_run: TrainRun, shapes: Any, tmp_path: Path) -> None:
    rows = list(csv.DictReader(shapes.rows.open()))
    for row in rows[:10]:
        row["image"] = "gone.png"
    place = table_of(rows, shapes, tmp_path)
    place.append("data.limit=null")
    with pytest.raises(UserError, match=r"rows are known to be bad .*data.max_bad_fraction"):
        train_run(*place)
    run = train_run(*place, "data.max_bad_fraction=0.1")
    listed = list(csv.DictReader((run.path / "bad_rows.csv").open()))
    assert sorted(int(r["row"]) for r in listed) == list(range(10))
    assert {r["reason"] for r in listed} == {f"no such file: {shapes.rows.parent / 'gone.png'}"}
    assert run.summary["rows"]["bad"] == 10
    told = (run.path / "train.log").read_text()
    assert (
        f"10 rows are left out (train 10); row 0, image: no such file: {shapes.rows.parent / 'gone.png'}; all in"
        in told
    )


def test_sgd_frozen_encoders_and_a_text_only_table(train_run: TrainRun) -> None:
    run = train_run("optim=sgd", "tune=head_only", "optim.lr=null", "data.columns.image=null")
    assert run.summary["parameters"]["image_encoder"]["trainable"] == 0
    kept = {name.partition(".")[0] for name in run.model_state}
    assert kept == {"fusion", "head", "missing_image", "missing_text"}


def test_a_step_without_a_single_good_row_moves_nothing(train_run: TrainRun, shapes: Any, tmp_path: Path) -> None:
    """The step counts, so that the order of the rest is not shifted."""
    rows = list(csv.DictReader(shapes.rows.open()))
    for row in rows:
        if row["split"] == "train":
            row["image"] = "gone.png"
    place = table_of(rows, shapes, tmp_path)
    place.append("data.max_bad_fraction=1")
    one = train_run(*place, "trainer.max_epochs=1")
    two = train_run(*place, "trainer.max_epochs=2")
    assert two.summary["optimizer_steps"] == 6
    for name, tensor in one.model_state.items():
        assert torch.equal(tensor, two.model_state[name])


def test_config_yaml_is_enough_to_make_the_same_run_again(train_run: TrainRun, tmp_path: Path) -> None:
    import yaml

    from mmft.config.compose import recompose

    first = train_run("trainer.precision=auto")
    config = yaml.safe_load((first.path / "config.yaml").read_text())
    assert config.pop("working_directory") == str(Path.cwd())
    assert config["trainer"]["precision"] != "auto"
    assert config["trainer"]["accelerator"] != "auto"
    assert train(recompose("train", config), tmp_path / "again") == 0
    assert same_weights(first, Run(tmp_path / "again"))


def test_out_of_memory_is_a_training_error(
    train_run: TrainRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

    monkeypatch.setattr(FineTuning, "training_step", fail)
    with pytest.raises(TrainingError, match=r"Out of memory: .*data.micro_batch_size"):
        train_run(folder=tmp_path / "oom")
    assert json.loads((tmp_path / "oom" / "summary.json").read_text())["status"] == "failed"


def test_a_trained_batch_norm_with_micro_batches_is_told(train_run: TrainRun, image_encoder_folder: Any) -> None:
    resnet = f"model.image_encoder.name={image_encoder_folder('timm_resnet')}"
    said = "BatchNorm is trained on micro-batches"
    few = ["trainer.max_epochs=1", "data.micro_batch_size=8"]
    assert said in (train_run(resnet, *few).path / "train.log").read_text()
    frozen = train_run(resnet, *few, "tune/image_encoder=freeze")
    assert said not in (frozen.path / "train.log").read_text()
