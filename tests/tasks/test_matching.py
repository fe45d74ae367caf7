"""Image-text matching, as a user has it: runs, what they answer, what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from make_shapes import Shapes
from runs import Run, TrainRun, same_weights
from task_batches import batch, outputs
from torch.nn import functional

import mmft
from mmft.batch import Candidates, Pair
from mmft.commands.predict import predict
from mmft.commands.test import test as run_test
from mmft.config.compose import compose
from mmft.errors import UserError
from mmft.tasks.classification import Classification
from mmft.tasks.identities import MATCH
from mmft.tasks.matching import Matching

RUN = ["task=matching", "data.limit=null", "trainer.max_epochs=2", "data.micro_batch_size=5"]


def typed(shapes: Shapes) -> list[str]:
    return [*(o for o in shapes.overrides if not o.startswith("data.columns.label")), "callbacks.progress=none"]


@pytest.fixture(scope="module")
def run(shapes: Shapes, tmp_path_factory: pytest.TempPathFactory) -> Run:
    from mmft.commands.train import train

    path = tmp_path_factory.mktemp("matching") / "run"
    assert train(compose("train", [*typed(shapes), *RUN]), path) == 0
    return Run(path)


def figures(capsys: pytest.CaptureFixture[str], *overrides: str) -> dict[str, float]:
    capsys.readouterr()
    assert run_test(compose("test", [*overrides])) == 0
    lines = capsys.readouterr().out.splitlines()
    return {name: float(value) for name, value in (line.split() for line in lines)}


def pair(label: Any, image: str | None = "/a.png", text: str | None = "a cat") -> Pair:
    return Pair(image, text, None, label)


@pytest.mark.parametrize(
    ("label", "meant"),
    [
        (1, 1),
        (0, 0),
        (1.0, 1),
        (True, 1),
        (False, 0),
        ("yes", 1),
        ("No", 0),
        ("TRUE", 1),
        (" 0", 0),
        ("1.0", 1),
        ("0.0", 0),
        ("n", 0),
        ("no match", 0),
        (None, -1),
    ],
)
def test_labels_say_whether_they_belong_together(label: Any, meant: int) -> None:
    task = Matching()
    target = task.encode(pair(label))
    assert torch.as_tensor(target).dtype == torch.int64
    assert target[MATCH] == meant
    assert task.label_names(label) == ([] if label is None else ["match" if meant else "no match"])


def test_what_is_no_pair_and_what_is_no_label() -> None:
    task = Matching()
    for given, reason in (
        (pair(None, image=None), "no image, but a pair needs both"),
        (pair(None, text=None), "no text, but a pair needs both"),
        (pair("maybe"), "label 'maybe' is neither 1, true, yes nor 0, false, no"),
        (pair(2), "label 2 is neither"),
    ):
        with pytest.raises(ValueError, match=reason):
            task.encode(given)
    task.fit([1, 0, None])
    with pytest.raises(ValueError, match="no label"):
        task.encode(pair(None))
    with pytest.raises(UserError, match="no training row has the label 1, true or yes.* found: 0, dog. Without labels"):
        task.fit([0, "dog", None])
    with pytest.raises(UserError, match="task.candidates=0 needs labelled mismatches, but no training row has a label"):
        Matching(candidates=0).fit([None, None])


def targets(*matches: int) -> torch.Tensor:
    return torch.tensor([[at, at, -1, match] for at, match in enumerate(matches)])


def test_loss_and_what_divides_it() -> None:
    task, logits = Matching(), torch.tensor([[0.3], [-2.0], [4.0]])
    rows = batch(targets(-1, 0, 1), torch.tensor([1.0, 0.5, 2.0]))
    losses = functional.softplus(torch.tensor([-0.3, -2.0, -4.0]))
    assert float(task.loss_sum(outputs(logits), rows)) == pytest.approx(float(losses @ rows.weight))
    assert float(task.normaliser(rows)) == 3.5
    number = torch.tensor([[5, 6], [-1, -1], [7, -1]])
    rows.candidates = Candidates(number[..., None], number[..., None] >= 0, number, torch.full((3, 2), 0.5))
    assert float(task.normaliser(rows)) == 6.5


def test_metrics_and_answers() -> None:
    task = Matching()
    found = outputs(torch.tensor([[40.0], [30.0], [-1.0], [0.5]]))  # in float32 the first two would both be 1
    metrics = task.metrics()
    task.update(metrics, found, batch(targets(1, 0, 0, -1)))
    values = task.scalars(metrics)
    assert values == pytest.approx({"accuracy": 0.75, "auroc": 0.75, "average_precision": (1 + 2 / 3) / 2})
    assert set(values) == set(task.metric_names())
    assert [answer["prediction"] for answer in task.answers(found)] == ["match", "match", "no match", "match"]
    assert task.answers(found)[3]["score"] == pytest.approx(1 / (1 + math.exp(-0.5)))
    metrics.reset()
    task.update(metrics, found, batch(targets(1, 1, -1, -1)))
    values = task.scalars(metrics)
    assert values["accuracy"] == 0.75
    assert math.isnan(values["auroc"])
    constant = task.constant_outputs(targets(1, 0, 0, 0), torch.tensor([1.0, 1.0, 1.0, 0.0]))
    assert constant.sigmoid().tolist() == pytest.approx([1 / 3])


def test_its_head_means_the_same_in_another_run_of_it_alone() -> None:
    other, classes = Matching(), Classification()
    other.load_state({"labelled": True})
    classes.fit(["a", "b"])
    assert Matching().same_outputs(other.state())
    assert not Matching().same_outputs(classes.state())


def test_a_run_without_labels(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    summary = run.summary
    assert summary["monitor"] == "val/auroc"
    assert 0 < summary["test"]["auroc"] <= 1
    assert set(summary["test"]) == {"accuracy", "auroc", "average_precision", "loss"}
    assert "modalities" not in summary
    found = figures(capsys, f"run={run.path}")
    assert found["rows"] + found["bad_rows"] == summary["rows"]["test"]
    assert {name: found[name] for name in summary["test"]} == pytest.approx(summary["test"], abs=1e-5)


def test_batches_workers_and_ranks_measure_the_same(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    known = figures(capsys, f"run={run.path}")
    for more in (["data.batch_size=7"], ["data.num_workers=2", "data.batch_size=1"]):
        assert figures(capsys, f"run={run.path}", *more) == pytest.approx(known, abs=1e-5)


def test_exchanged_modalities_are_chance(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    found = figures(capsys, f"run={run.path}", "modalities=true")
    assert {name.partition("/")[0] for name in found if "/" in name} == {"image_shuffled", "text_shuffled"}
    for name in ("image_shuffled", "text_shuffled"):
        assert found[f"{name}/auroc"] == pytest.approx(0.5, abs=0.25)


def test_predictions(run: Run, shapes: Shapes, tmp_path: Path) -> None:
    rows = pd.read_csv(shapes.rows).dropna(subset=["image", "text"]).head(6)
    rows.loc[rows.index[2], "text"] = None
    rows.to_csv(tmp_path / "new.csv", index=False)
    where = [f"run={run.path}", f"data.path={tmp_path / 'new.csv'}", f"data.root={shapes.rows.parent}"]
    for ending in ("csv", "parquet"):
        assert predict(compose("predict", [*where, f"out={tmp_path / 'out'}.{ending}"])) == 0
    table = pd.read_csv(tmp_path / "out.csv")
    assert table["prediction"].isna().tolist() == [False, False, True, False, False, False]
    known = table.dropna(subset=["prediction"])
    assert ((known["score"] > 0.5) == (known["prediction"] == "match")).all()
    parquet = pd.read_parquet(tmp_path / "out.parquet")
    assert parquet["prediction"].fillna("").tolist() == table["prediction"].fillna("").tolist()
    here = mmft.load(run.path).predict(rows, root=shapes.rows.parent)
    assert here["score"].tolist() == pytest.approx(table["score"].tolist(), abs=1e-6, nan_ok=True)


def labelled(shapes: Shapes, path: Path) -> Path:
    """Every second row has another row's text, and its label says so."""
    rows = pd.read_csv(shapes.rows).dropna(subset=["image", "text"])
    rows = rows[rows["image"].map(lambda name: (shapes.rows.parent / name).is_file())].reset_index(drop=True)
    rows["match"] = [("yes", "no")[at % 2] for at in range(len(rows))]
    moved = rows["text"].iloc[1::2].tolist()
    rows.loc[1::2, "text"] = moved[1:] + moved[:1]
    rows.to_csv(path, index=False)
    return path


@pytest.mark.parametrize("candidates", [0, 3])
def test_labels_are_given_negatives(
    candidates: int, train_run: TrainRun, shapes: Shapes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = labelled(shapes, tmp_path / "rows.csv")
    where = [f"data.path={path}", f"data.root={shapes.rows.parent}", "data.columns.label=match"]
    made = train_run(
        *where, "task=matching", f"task.candidates={candidates}", "trainer.max_epochs=1", "modality_report=true"
    )
    assert set(made.summary["modalities"]) == {"constant", "text", "image", "both"}
    assert made.summary["modalities"]["constant"] == 0.5
    test = pd.read_csv(path).query("split == 'test'")
    found = figures(capsys, f"run={made.path}", f"data.path={path}", f"data.root={shapes.rows.parent}")
    answers = mmft.load(made.path).predict(test, root=shapes.rows.parent)
    right = (answers["prediction"] == "match") == (test["match"] == "yes")
    assert found["rows"] == len(test)
    assert found["accuracy"] == pytest.approx(right.mean(), abs=1e-6)


def test_micro_batches_and_workers_train_the_same(train_run: TrainRun) -> None:
    where = [
        "task=matching",
        "data.columns.label=null",
        "model.dropout=0",
        "trainer.max_epochs=1",
        "data.batch_size=12",
    ]
    where += ["model.fusion.dropout=0", "data/augment=light", "trainer.precision=64-true"]
    reference = train_run(*where)
    assert same_weights(reference, train_run(*where, "data.num_workers=2"))
    split = train_run(*where, "data.micro_batch_size=5")
    for name, value in reference.weights.items():
        assert torch.allclose(split.weights[name], value, atol=1e-8), name


@pytest.mark.slow
def test_twelve_rows_are_learned_by_heart(train_run: TrainRun) -> None:
    more = ["data.overfit=12", "data.limit=null", "trainer.max_epochs=300", "trainer.val_every_epochs=300"]
    more += ["optim.lr=1e-3", "optim.head_lr=3e-3", "schedule.warmup=0", "model.dropout=0", "callbacks.ema.decay=0.5"]
    made = train_run("task=matching", "data.columns.label=null", *more)
    assert made.summary["test"]["auroc"] == 1.0


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (
            ["model/fusion=dual"],
            "model.fusion: dual does not go with task=matching, which makes one prediction from a row's",
        ),
        (["data.columns.text=null"], "task=matching pairs images with texts. Type data.columns.text=COLUMN"),
        (["data.sampler=balanced"], "data.sampler: balanced needs a class"),
        (["trainer=fsdp", "trainer.devices=2"], "fsdp does not go with task=matching yet. Type trainer.strategy=ddp"),
        (["model.modality_dropout=0.3"], "model.modality_dropout: does not go with task=matching, which needs both"),
        (["data.augment.mixup=0.5"], "does not go with task=matching. Leave it out"),
        (["data.augment.cutmix=0.5"], "does not go with task=matching. Leave it out"),
        (["data.batch_size=1"], "data.batch_size: task=matching .*needs at least two. Type data.batch_size=32"),
        (["callbacks.gradient_accumulation.schedule={0:1,1:8}"], "needs at least two"),
        (["task.candidates=0"], "task.candidates: 0: without labels .*Type task.candidates=7, or data.columns.label"),
        (["task.candidates=-1"], "task.candidates: -1 is out of bounds"),
        (["modality_report=true"], "modality_report: true needs labels"),
        (["task.negatives=hard"], "task.negatives: no such key"),
    ],
)
def test_refused(wrong: list[str], said: str, shapes: Shapes) -> None:
    with pytest.raises(UserError, match=said):
        compose("train", [*typed(shapes), "data.columns.label=null", "task=matching", *wrong])
