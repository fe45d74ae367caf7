"""Contrastive retrieval, as a user has it: runs, what they answer, what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from make_shapes import Shapes
from pyarrow import parquet
from runs import Run, TrainRun
from torch.nn import functional

import mmft
from mmft.batch import Pair
from mmft.commands.embed import embed
from mmft.commands.predict import predict
from mmft.commands.test import test as run_test
from mmft.config.compose import compose
from mmft.errors import UserError
from mmft.tasks.contrastive import Contrastive

RUN = ["task=contrastive", "data.limit=null", "trainer.max_epochs=2", "data.micro_batch_size=5"]


@pytest.fixture(scope="module")
def run(shapes: Shapes, tmp_path_factory: pytest.TempPathFactory) -> Run:
    from mmft.commands.train import train

    path = tmp_path_factory.mktemp("contrastive") / "run"
    typed = [o for o in shapes.overrides if not o.startswith("data.columns.label")]
    assert train(compose("train", [*typed, *RUN, "callbacks.progress=none"]), path) == 0
    return Run(path)


def test_what_belongs_together_is_known_by_its_content() -> None:
    task = Contrastive()
    a, b = task.encode(Pair("/a.png", "a cat", "g", None)), task.encode(Pair(b"\x00", "a cat", None, "cat"))
    assert a[1] == b[1] >= 0
    assert a[0] != b[0]
    assert (a[2] >= 0, b[2]) == (True, -1)
    assert torch.as_tensor(a).dtype == torch.int64
    for pair, missing in ((Pair(None, "a", None, None), "image"), (Pair("/a", None, None, None), "text")):
        with pytest.raises(ValueError, match=f"no {missing}, but a pair needs both"):
            task.encode(pair)


@pytest.mark.parametrize(("loss", "scale", "bias"), [("info_nce", 1 / 0.07, None), ("sigmoid", 10.0, -math.log(22000))])
def test_temperature_and_bias_begin_as_published(loss: str, scale: float, bias: float | None) -> None:
    head: Any = Contrastive(loss=loss, compared_rows=22000).make_head(32)
    assert head.log_scale.exp().item() == pytest.approx(scale)
    assert (None if head.bias is None else head.bias.item()) == pytest.approx(bias)
    assert bias is None or bias == pytest.approx(-10, abs=1e-2)
    half: Any = Contrastive(loss=loss, temperature=0.5).make_head(32)
    assert half.log_scale.item() == pytest.approx(math.log(2))


def test_the_scale_stays_below_100() -> None:
    head: Any = Contrastive().make_head(8)
    torch.nn.init.constant_(head.log_scale, 10.0)
    assert head(torch.ones(1, 8))[0, 0].item() == pytest.approx(100.0, rel=1e-5)


def test_a_run_without_labels(run: Run) -> None:
    summary = run.summary
    assert summary["monitor"] == "val/mean_recall"
    assert 0 < summary["test"]["mean_recall"] <= 1
    assert summary["test"]["text_to_image/median_rank"] >= 1
    assert "modalities" not in summary
    assert run_test(compose("test", [f"run={run.path}"])) == 0


def test_rows_without_a_image_or_a_text_are_bad_ones(train_run: TrainRun, shapes: Shapes, tmp_path: Path) -> None:
    frame = pd.read_csv(shapes.rows)
    frame.loc[frame.index[3], "text"] = None
    frame.to_csv(tmp_path / "rows.csv", index=False)
    where = [f"data.path={tmp_path / 'rows.csv'}", f"data.root={shapes.rows.parent}", "data.max_bad_fraction=0.2"]
    made = train_run(*where, "task=contrastive", "data.limit=null", "trainer.max_epochs=1")
    bad = pd.read_csv(made.path / "bad_rows.csv")
    assert "no text, but a pair needs both" in set(bad["reason"])


def test_embeddings_are_what_predict_compares(run: Run, shapes: Shapes, tmp_path: Path) -> None:
    rows = pd.read_csv(shapes.rows).head(8)
    rows.loc[2, "text"] = None
    rows.loc[4, "image"] = None
    rows.loc[5, "image"] = "images/not_there.png"
    rows.to_csv(tmp_path / "new.csv", index=False)
    where = [f"run={run.path}", f"data.path={tmp_path / 'new.csv'}", f"data.root={shapes.rows.parent}"]
    for ending in ("parquet", "npz"):
        assert embed(compose("embed", [*where, f"out={tmp_path / 'out'}.{ending}"])) == 0
    assert predict(compose("predict", [*where, f"out={tmp_path / 'cosines.parquet'}"])) == 0
    arrays = np.load(tmp_path / "out.npz")
    table = parquet.read_table(tmp_path / "out.parquet").to_pandas()
    cosines = parquet.read_table(tmp_path / "cosines.parquet").to_pandas()
    assert np.isnan(arrays["image"]).any(1).tolist() == [row in (4, 5) for row in range(8)]
    assert np.isnan(arrays["text"]).any(1).tolist() == [row in (2, 5) for row in range(8)]
    assert table["error"][5].startswith("image: no such file: /")
    assert arrays["error"][5] == table["error"][5]
    for row in (0, 1, 3, 6, 7):
        image, text = table["image"][row], table["text"][row]
        assert np.linalg.norm(image) == pytest.approx(1, abs=1e-5)
        assert float(image @ text) == pytest.approx(cosines["prediction"][row], abs=1e-5)
        assert np.array_equal(image, arrays["image"][row])
    here = mmft.load(run.path).embed(rows, root=shapes.rows.parent)
    assert np.allclose(here["text"], arrays["text"], atol=1e-5, equal_nan=True)


def test_a_row_without_both_has_no_similarity(run: Run) -> None:
    answer = mmft.load(run.path).predict([{"image": None, "text": "a painting in red"}])[0]
    assert (answer["prediction"], answer["error"]) == (None, "no image")


@pytest.mark.parametrize("fusion", ["concat", "merged"])
def test_other_tasks_embed_too(fusion: str, train_run: TrainRun) -> None:
    small = ["model.fusion.width=32", "model.fusion.heads=2"] if fusion == "merged" else []
    made = train_run(f"model/fusion={fusion}", *small, "trainer.max_epochs=1")
    model = mmft.load(made.path)
    found = model.embed([{"image": None, "text": "a painting in red"}])
    assert set(found) == ({"fused"} if fusion == "merged" else {"image", "text", "fused"})
    assert found["fused"].shape == (1, model.model.fusion.width)
    assert np.isfinite(found["fused"]).all()
    if fusion == "concat":
        assert np.isnan(found["image"]).all()
        assert np.isfinite(found["text"]).all()


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["task=contrastive", "model/fusion=concat"], "model.fusion: concat does not go with task=contrastive"),
        (["model/fusion=dual"], "model.fusion: dual does not go with task=classification"),
        (["task=contrastive", "data.columns.text=null"], r"Type data.columns.text=COLUMN"),
        (["task=contrastive", "data.sampler=balanced"], "data.sampler: balanced needs a class"),
        (["task=contrastive", "task.temperature=0"], "task.temperature"),
        (["task=contrastive", "task.label_smoothing=0.1"], "task.label_smoothing"),
        (["task=contrastive", "trainer=fsdp", "trainer.devices=2"], "fsdp does not go with task=contrastive"),
        (
            ["task=contrastive", "task.templates=['an image']"],
            "task.templates: .*each needs one {} for the label's name",
        ),
        (["task=contrastive", "data.batch_size=1"], "data.batch_size: .*a batch needs at least two"),
        (["task=contrastive", "callbacks.gradient_accumulation.schedule={0:1,1:8}"], "a batch needs at least two"),
        (
            ["task=contrastive", "task.compared_rows=4096"],
            "task.compared_rows: changes nothing, because task.loss=info",
        ),
        (
            ["task=contrastive", "task.templates=[a {}]"],
            r"cannot be parsed: .*task.templates=\['a {}'\]",
        ),
        (["task=contrastive", "task.templates=[]"], "task.templates: .*each needs one {}"),
    ],
)
def test_refused(typed: list[str], said: str, shapes: Shapes) -> None:
    with pytest.raises(UserError, match=said):
        compose("train", [*shapes.overrides, *typed])


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("modality_report=true", "modality_report: true needs labels"),
        ("task.templates=['a {}']", "task.templates: changes nothing without data.columns.label"),
    ],
)
def test_refused_without_labels(typed: str, said: str, shapes: Shapes) -> None:
    with pytest.raises(UserError, match=said):
        compose("train", [*shapes.overrides, "task=contrastive", "data.columns.label=null", typed])


def test_zero_shot_is_the_nearest_mean_of_a_labels_prompts() -> None:
    task = Contrastive(templates=["a {}", "the {} here"])
    task.fit(["old_cat", "dog", None, "dog"])
    assert task.labels == ["dog", "old_cat"]
    assert task.prompts() == ["a dog", "the dog here", "a old cat", "the old cat here"]
    generator = torch.Generator().manual_seed(0)
    fused, image = torch.randn(4, 12, generator=generator), torch.randn(10, 6, generator=generator)
    task.take_prompts(fused)
    label = torch.tensor([0, 1, -1, 0, 1, 0, 0, 1, -1, 0])
    numbers = torch.arange(10)
    target = torch.stack([numbers, numbers, -torch.ones(10).long(), label], dim=1)
    metrics = task.metrics()
    metrics.update(image, image, target)
    means = [functional.normalize(fused[i : i + 2, 6:].mean(0), dim=0) for i in (0, 2)]
    nearest = torch.stack([image @ mean for mean in means], dim=1).argmax(1)
    right = [bool(n == t) for n, t in zip(nearest.tolist(), label.tolist(), strict=True) if t >= 0]
    assert task.scalars(metrics)["zero_shot/accuracy"] == pytest.approx(sum(right) / len(right))
    assert set(task.scalars(metrics)) == set(task.metric_names())


def test_labels_measure_the_embeddings(train_run: TrainRun) -> None:
    typed = ["task=contrastive", "task.templates=['a {} drawing']", "modality_report=true", "trainer.max_epochs=1"]
    made = train_run(*typed, "data.limit=null")
    assert set(made.summary["embeddings"]) == {"image/linear_probe", "image/knn", "text/linear_probe", "text/knn"}
    assert made.summary["embeddings"]["text/linear_probe"] > 1.5 / 6  # texts say the label
    assert 0 <= made.summary["test"]["zero_shot/accuracy"] <= 1
    model = mmft.load(made.path)
    assert len(model.labels) == 6
    again = train_run(*typed, f"init={made.path}")
    assert "init: all weights from" in (again.path / "train.log").read_text()
    other = train_run(*typed, f"init={made.path}", "task.loss=sigmoid")
    assert "the head is new: its outputs have another meaning there" in (other.path / "train.log").read_text()


@pytest.mark.parametrize(("loss", "epochs"), [("info_nce", 60), pytest.param("sigmoid", 200, marks=pytest.mark.slow)])
def test_it_overfits_12_rows(loss: str, epochs: int, train_run: TrainRun) -> None:
    more = [
        "data.overfit=12",
        "data.limit=null",
        f"trainer.max_epochs={epochs}",
        f"trainer.val_every_epochs={epochs // 2}",
        "optim.lr=1e-3",
        "schedule.warmup=0",
    ]
    made = train_run("task=contrastive", f"task.loss={loss}", *more, "model.dropout=0", "optim.head_lr=1e-2")
    assert made.summary["test"]["mean_recall"] == 1.0
