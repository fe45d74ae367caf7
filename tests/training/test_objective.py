"""Losses of training beside the task's: by each modality alone, and an alignment of both."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from auxiliary_losses import AlignedCase, written_out
from make_shapes import Shapes
from pairwise_gradients import cached, largest_error
from runs import Run, TrainRun
from safetensors.torch import load_file
from torch import Tensor

from mmft import load
from mmft.cli.main import main
from mmft.config.compose import compose
from mmft.errors import UserError
from mmft.training.accumulation import accumulate, seed_dropout

AUXILIARY = [f"model.auxiliary.{key}" for key in ("modality_weight=0.5", "alignment=contrastive", "alignment_width=8")]


@pytest.mark.parametrize("micro", [None, 7, 1])
def test_with_a_contrastive_alignment_every_gradient_is_that_of_one_graph(shapes: Shapes, micro: int | None) -> None:
    case = AlignedCase(shapes.overrides, "contrastive")
    found, exact = cached(case, micro), written_out(case, micro, world=1)
    trained = [name for name in found if name.startswith("auxiliary.")]
    assert len(trained) == 9
    assert all(bool(found[name].any()) for name in trained)
    assert largest_error(found, exact) <= 1e-10


@pytest.mark.parametrize("micro", [None, 7, 1])
def test_with_an_alignment_of_rows_every_gradient_is_that_of_one_graph(shapes: Shapes, micro: int | None) -> None:
    case = AlignedCase(shapes.overrides, "kl")
    exact = written_out(case, micro, world=1)
    case.model.zero_grad()
    accumulate(
        case.batch,
        micro,
        case.objective.normalisers(case.batch),
        lambda rows: case.objective.sums(case.model(rows), rows),
        case.objective.weigh,
        Tensor.backward,
        lambda index: seed_dropout(0, 0, 0, index),
    )
    found = {name: p.grad for name, p in case.model.named_parameters() if p.grad is not None}
    assert largest_error(found, exact) <= 1e-10


def test_a_row_without_a_modality_has_no_loss_by_it(shapes: Shapes) -> None:
    case = AlignedCase(shapes.overrides, "kl", "model.dropout=0")
    batch = case.batch
    names = list(case.objective.terms)
    assert names == ["task", "image", "text", "alignment"]
    with torch.no_grad():
        sums = case.objective.sums(case.model(batch), batch)
        without = batch.map_tensors(lambda t: t[~batch.image_present])
        alone = case.objective.sums(case.model(without), without)
    assert sums[1] > 0
    assert alone[1] == alone[3] == 0
    assert alone[2] > 0
    assert case.objective.normalisers(without)[[1, 3]].tolist() == [0, 0]


@pytest.fixture(scope="module")
def run(shapes: Shapes, tmp_path_factory: pytest.TempPathFactory) -> Run:
    runs = tmp_path_factory.mktemp("auxiliary")
    typed = [*shapes.overrides, *AUXILIARY, "trainer.max_epochs=2", "trainer.log_every_steps=1", f"paths.runs={runs}"]
    assert main(["train", *typed, "data.micro_batch_size=10"]) == 0
    return Run(next(runs.glob("*/*/config.yaml")).parent)


def rows(run: Run) -> list[dict[str, str]]:
    with (run.path / "metrics.csv").open() as file:
        return [row for row in csv.DictReader(file) if row["train/loss"]]


def test_each_loss_is_logged_and_the_whole_is_their_weighted_sum(run: Run) -> None:
    for row in rows(run):
        task, image, text, alignment = (float(row[f"train/loss/{n}"]) for n in ("task", "image", "text", "alignment"))
        assert float(row["train/loss"]) == pytest.approx(task + 0.5 * image + 0.5 * text + 0.1 * alignment, rel=1e-5)
    first, last = rows(run)[0], rows(run)[-1]
    for name in ("image", "text", "alignment"):
        assert float(last[f"train/loss/{name}"]) < float(first[f"train/loss/{name}"]), name


def test_the_finished_model_has_nothing_of_it(run: Run, shapes: Shapes) -> None:
    names = load_file(run.path / "model" / "model.safetensors")
    assert names
    assert not [name for name in names if "auxiliary" in name]
    answers = load(run.path).predict([{"image": None, "text": "a red square"}], shapes.rows.parent)
    assert answers[0]["prediction"]


def test_another_run_can_start_from_it(run: Run, shapes: Shapes, tmp_path: Path) -> None:
    typed = [*shapes.overrides, *AUXILIARY, f"init={run.path}", "trainer.max_steps=1", f"paths.runs={tmp_path}"]
    assert main(["train", *typed]) == 0


def test_an_optimizer_step_whose_rows_are_all_bad_has_no_loss(
    train_run: TrainRun, shapes: Shapes, tmp_path: Path
) -> None:
    with shapes.rows.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "train"][:16]
    for number, row in enumerate(rows):
        row["image"] = str(shapes.folder / row["image"]) if number < 5 else "nowhere.png"
    table = tmp_path / "rows.csv"
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    few = ["data.batch_size=2", "data.limit=null", "data.max_bad_fraction=1", "trainer.max_epochs=1"]
    run = train_run(*AUXILIARY, *few, "trainer.log_every_steps=1", f"data.path={table}")
    losses = [float(row["train/loss"]) for row in csv.DictReader(run.metrics.splitlines()) if row["train/loss"]]
    assert len(losses) == 8
    assert sum(map(math.isnan, losses)) >= 3  # five good rows are in five of them at most
    assert 0 not in losses


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["model.auxiliary.alignment_weight=1"], "alignment_weight: changes nothing without model.auxiliary.alignment"),
        (["model.auxiliary.alignment_width=8"], "alignment_width: changes nothing without model.auxiliary.alignment"),
        (["model.auxiliary.alignment=kl", "task=contrastive"], "alignment: does not go with task=contrastive"),
        (["model.auxiliary.modality_weight=1", "task=contrastive"], "modality_weight: does not go with task=contr"),
        (["model.auxiliary.modality_weight=1", "data.columns.text=null"], "data.columns.text is not set"),
        (["model.auxiliary.alignment=kl", "data.columns.image=null"], "data.columns.image is not set"),
        (["model.auxiliary.alignment=contrastive", "trainer.strategy=fsdp"], "fsdp does not go with model.auxiliary"),
        (["model.auxiliary.alignment=kl", "data.augment.mixup=0.2"], "does not go with data.augment.mixup"),
        (["model.auxiliary.alignment=contrastive", "data.batch_size=1"], "a batch needs at least two"),
        (
            ["model.auxiliary.alignment=contrastive", "callbacks.gradient_accumulation.schedule={0:1,1:8}"],
            "a batch needs at least two",
        ),
        (
            ["model.auxiliary.alignment=kl", "model.auxiliary.alignment_width=1"],
            "expected an integer or null, at least 2",
        ),
        (["model.auxiliary.alignment=kl", "tune=head_only", "optim.lr=null"], "both encoders are frozen"),
        (["model.auxiliary.alignment=dot"], "expected one of none, kl, contrastive"),
        (["model.auxiliary.modality_weight=-1"], "out of bounds"),
    ],
)
def test_wrong_configs(typed: list[str], message: str, shapes_overrides: list[str]) -> None:
    with pytest.raises(UserError, match=message):
        compose("train", [*shapes_overrides, *typed])


def test_check_tries_the_step_with_it(shapes_overrides: list[str], capsys: Any) -> None:
    assert main(["check", *shapes_overrides, *AUXILIARY, "audit.pictures=false"]) == 0
    assert "optimizer" in capsys.readouterr().out
