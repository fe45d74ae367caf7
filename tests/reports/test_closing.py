"""The modality report's figures: the constant, and which rows of a long table are looked at."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import TrainRun
from torch.utils.data import DataLoader

from mmft.batch import Batch
from mmft.reports.comments import modality_comment
from mmft.reports.linear_heads import linear_head, spread
from mmft.tasks.regression import Regression
from mmft.training.linear_head import Labelled


def test_majority_is_the_most_frequent_label_though_classes_are_balanced(
    train_run: TrainRun, shapes: Any, tmp_path: Path
) -> None:
    rows = list(csv.DictReader(shapes.rows.open()))
    labels = sorted({row["label"] for row in rows})
    rows = [row | {"label": "other" if row["label"] in labels[2:] else row["label"]} for row in rows]
    with (tmp_path / "rows.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    place = [f"data.path={tmp_path / 'rows.csv'}", f"data.root={shapes.rows.parent}", "data.limit=null"]
    run = train_run(*place, "modality_report=true", "task.class_weights=balanced", "trainer.max_epochs=1")
    test = [row["label"] for row in rows if row["split"] == "test"]
    assert run.summary["modalities"]["majority"] == torch.tensor(test.count("other") / len(test)).item()


def test_by_itself_a_run_is_reported_and_one_of_a_sweep_is_not(train_run: TrainRun, tmp_path: Path) -> None:
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "sweep.json").write_text("{}")
    short = ["trainer.max_epochs=1"]
    assert "modalities" in train_run("modality_report=null", *short, folder=tmp_path / "alone").summary
    assert "modalities" not in train_run("modality_report=null", *short, folder=tmp_path / "sweep" / "0").summary
    assert "modalities" in train_run("modality_report=true", *short, folder=tmp_path / "sweep" / "1").summary


class Numbers(torch.utils.data.Dataset[int]):
    def __getitem__(self, at: int) -> int:
        return at


def test_many_rows_are_thinned_over_the_whole_table() -> None:
    batches = [range(first, first + 8) for first in range(0, 800, 8)]
    loader: DataLoader[Any] = DataLoader(Numbers(), batch_sampler=batches, collate_fn=list)  # type: ignore[arg-type]
    taken: list[Any] = list(spread(loader, 120))
    assert spread(loader, 800) is loader
    assert 80 < sum(map(len, taken)) <= 120
    assert taken[0][0] == 0
    assert taken[-1][-1] > 700
    plain: list[Batch] = []
    assert spread(plain, 1) is plain


@pytest.mark.parametrize(
    ("constant", "text", "image", "both", "lower", "said"),
    [
        (0.3, 0.60, 0.50, 0.80, False, "image and text together are better"),
        (0.3, 0.79, 0.50, 0.80, False, "text alone is as good as both: 400 rows show nothing that the image adds"),
        (0.3, 0.40, 0.79, 0.80, False, "image alone is as good as both: 400 rows show nothing that the text adds"),
        (0.3, 0.79, 0.79, 0.80, False, "either alone is as good"),
        (0.3, 0.40, 0.90, 0.80, False, "features of the image alone is better than the model"),
        (0.3, 0.40, 0.40, 0.31, False, r"no better than a constant prediction \(majority\)"),
        (10.0, 5.0, 9.0, 2.0, True, "image and text together are better"),
        (10.0, 2.1, 9.0, 2.0, True, "text alone is as good"),
        (10.0, 9.0, 1.0, 2.0, True, "features of the image alone is better than the model"),
        (10.0, 9.0, 9.0, 11.0, True, "no better than a constant"),
        (0.3, 0.4, 0.5, float("nan"), False, "no better than a constant"),
    ],
)
def test_the_figures_are_commented(
    constant: float, text: float, image: float, both: float, lower: bool, said: str
) -> None:
    figures = {"majority": constant, "text": text, "image": image, "both": both}
    assert re.search(said, modality_comment(figures, lower, 400))


def test_the_comment_is_told_where_there_are_two_modalities(
    train_run: TrainRun, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train_run("modality_report=true", "trainer.max_epochs=1", folder=tmp_path / "both")
    told = "is better than|are better than|as good as both|no better than"
    assert re.search(told, caplog.text)
    caplog.clear()
    train_run("modality_report=true", "trainer.max_epochs=1", "data.columns.text=null", folder=tmp_path / "image")
    assert "image only" in caplog.text
    assert not re.search(told, caplog.text)


def test_a_head_on_noise_is_hardly_worse_than_the_mean() -> None:
    """Of few rows with many features."""
    generator = torch.Generator().manual_seed(0)
    features, prices = torch.randn(160, 384, generator=generator), 100 + 30 * torch.randn(160, generator=generator)
    task = Regression()
    task.fit(prices[:100].tolist())
    rows = Labelled(
        features, torch.stack([torch.as_tensor(task.encode(one)) for one in prices.tolist()]), torch.ones(160)
    )
    known, asked = rows.where(torch.arange(100)), rows.where(torch.arange(100, 160))
    of_mean = float((prices[100:] - prices[:100].mean()).square().mean().sqrt())
    assert linear_head(task, known, asked) < 1.2 * of_mean
    assert linear_head(task, known.where(torch.arange(4)), asked) < 2 * of_mean
