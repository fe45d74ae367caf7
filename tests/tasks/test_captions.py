"""Captions of labels as texts (FLYP), rows with the same text as negatives, and templates by name."""

from __future__ import annotations

import csv
from itertools import chain
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from make_shapes import Shapes
from runs import Run, TrainRun, killed_run, resumed, same_weights
from torch import Tensor
from torch.nn import functional

import mmft
from mmft import build
from mmft.batch import Batch, Outputs, Pair
from mmft.cli.main import main
from mmft.config.compose import compose
from mmft.config.schema.task import TemplateSet
from mmft.data.splitting.splits import load_splits
from mmft.errors import UserError
from mmft.launch.sweep.study import _objective
from mmft.tasks.contrastive import Contrastive
from mmft.tasks.prompts import templates_of
from mmft.tasks.template_sets import TEMPLATE_SETS

TEMPLATES = ["a {}", "the {} one", "some {} here"]
FLYP = ["task=contrastive", "task.texts=templates", "data.columns.text=null", f"task.templates={TEMPLATES}"]


def test_sets_have_names() -> None:
    assert set(get_args(TemplateSet)) == set(TEMPLATE_SETS)
    assert {name: len(set(found)) for name, found in TEMPLATE_SETS.items()} == {
        "photo": 1,
        "simple": 7,
        "openai_imagenet": 80,
    }
    assert all(template.count("{}") == 1 for template in chain(*TEMPLATE_SETS.values()))
    assert templates_of("photo") == ["a photo of a {}."]
    assert templates_of(None) == ["{}"]
    with pytest.raises(UserError, match="foto is not a set of templates"):
        templates_of("foto")


def test_a_search_goes_by_zero_shot_accuracy(flyp: list[str]) -> None:
    assert _objective(compose("train", flyp)) == ("zero_shot/accuracy", "maximize")
    assert _objective(compose("train", ["task=contrastive", *flyp[:8]])) == ("mean_recall", "maximize")


# ---------------------------------------------------------------- the same text


def _loss(same_text: Any, loss: str, image: Tensor, text: Tensor, identity: Tensor, weight: Tensor) -> Tensor:
    """The mean loss of the task, of vectors whose inner products are the logits."""
    task = Contrastive(loss=loss, same_text=same_text)
    target = torch.cat([identity, torch.full((len(identity), 1), -1)], dim=1)
    there = torch.ones(len(identity), dtype=torch.bool)
    batch = Batch(None, None, None, there, there, torch.arange(len(identity)), weight, target)
    outputs = Outputs(torch.cat([image, text], dim=1), image, text)
    return task.loss_sum(outputs, batch) / task.normaliser(batch)


@pytest.mark.parametrize("loss", ["info_nce", "sigmoid"])
def test_rows_with_the_same_text_are_negatives(loss: str) -> None:
    """Against CLIP's own loss and SigLIP's, written out; rows with the same image or group stay positive."""
    torch.manual_seed(0)
    image, text = torch.randn(2, 6, 4, dtype=torch.float64)
    weight = torch.ones(6)
    identity = torch.tensor([[i, t, -1] for i, t in [(0, 9), (1, 9), (2, 8), (3, 7), (4, 8), (5, 9)]])
    logits = image @ text.T

    def written_out(positive: Tensor) -> Tensor:
        if loss == "sigmoid":
            return -functional.logsigmoid(torch.where(positive, logits, -logits)).sum() / 6
        wanted = positive.double() / positive.sum(1, keepdim=True)
        return (functional.cross_entropy(logits, wanted) + functional.cross_entropy(logits.T, wanted)) / 2

    own = torch.eye(6, dtype=torch.bool)
    same = identity[:, None, 1] == identity[:, 1]
    assert torch.allclose(_loss("negative", loss, image, text, identity, weight), written_out(own))
    assert torch.allclose(_loss("positive", loss, image, text, identity, weight), written_out(same))
    assert not torch.allclose(written_out(own), written_out(same))
    if loss == "info_nce":  # as transformers has it for CLIP
        numbers = torch.arange(6)
        clip = (functional.cross_entropy(logits, numbers) + functional.cross_entropy(logits.T, numbers)) / 2
        assert torch.allclose(written_out(own), clip)
    identity[3, 0] = 0  # rows 0 and 3 share an image
    identity[[2, 5], 2] = 1  # rows 2 and 5 a group
    own[0, 3] = own[3, 0] = own[2, 5] = own[5, 2] = True
    assert torch.allclose(_loss("negative", loss, image, text, identity, weight), written_out(own))


def test_a_run_with_negatives_learns_otherwise(train_run: TrainRun) -> None:
    typed = ["task=contrastive", "trainer.max_epochs=1"]
    positive, negative = train_run(*typed), train_run(*typed, "task.same_text=negative")
    assert not same_weights(positive, negative)


# ---------------------------------------------------------------- captions


def test_what_a_target_of_a_caption_is() -> None:
    """One identity for all captions of a label; underscores are spaces."""
    task = Contrastive(texts="templates", templates=TEMPLATES)
    task.fit(["red_disc", "cat", None])
    a, b, c = (task.encode(Pair(f"/{n}", None, None, label)) for n, label in enumerate(["cat", "red_disc", "cat"]))
    assert a[1] == c[1] != b[1]
    assert (a[3], b[3]) == (0, 1)
    assert task.captions_of is not None
    assert task.captions_of("red_disc") == ["a red disc", "the red disc one", "some red disc here"]
    assert task.monitor == "zero_shot/accuracy"
    assert task.metric_names() == ["zero_shot/accuracy"]
    with pytest.raises(ValueError, match="no label to make a caption of"):
        task.encode(Pair("/a", None, None, None))
    with pytest.raises(UserError, match="1 different labels"):
        Contrastive(texts="templates").fit(["cat", "cat"])
    plain = Contrastive()
    assert (plain.captions_of, plain.monitor) == (None, "mean_recall")


def drawn(overrides: list[str], epochs: int = 3, world: int = 1) -> dict[tuple[int, int], list[int]]:
    """(epoch, row) -> its tokens, over the batches of all ranks."""
    config = compose("train", overrides).config
    splits = load_splits(config.data, config.seed)
    task = build.build_task(config.task)
    task.fit(splits["train"].table.labels(splits["train"].rows))
    model = build.build_model(config.model, task.make_head, config.seed)
    found: dict[tuple[int, int], list[int]] = {}
    for rank in range(world):
        data: Any = build.build_data(config, splits, model, task)
        place = (rank, world)
        data._place = lambda place=place: place
        for epoch in range(epochs):
            data._steps_done = lambda epoch=epoch, data=data: data.plan.steps_before(epoch)
            data._train_loader = None
            for batch in data.train_dataloader():
                for row, ids, mask in zip(batch.row.tolist(), batch.input_ids, batch.attention_mask, strict=True):
                    found[epoch, row] = ids[mask].tolist()
    return found


@pytest.fixture
def flyp(shapes_overrides: list[str]) -> list[str]:
    return [*shapes_overrides, *FLYP, "trainer.max_epochs=3"]


@pytest.mark.slow
def test_draws_depend_on_seed_epoch_and_row_alone(flyp: list[str]) -> None:
    """Not on batches, workers, ranks or other augmentation; and every template is drawn."""
    config = compose("train", flyp).config
    model = build.build_model(config.model, 6, 0)
    split = load_splits(config.data, 0)["train"]
    tokens = {
        row: {
            text: tuple(model.text_encoder.tokenizer(text)["input_ids"])
            for text in (template.format(label.replace("_", " ")) for template in TEMPLATES)
        }
        for row, label in zip(split.rows.tolist(), split.table.labels(split.rows), strict=True)
    }
    found = drawn(flyp)
    assert len(found) == 3 * len(split)
    which = {key: list(tokens[key[1]].values()).index(tuple(ids)) for key, ids in found.items()}
    counts = [list(which.values()).count(template) for template in range(3)]
    assert min(counts) > len(which) / 5
    anew = sum(which[0, row] != which[1, row] for row in split.rows.tolist())
    assert anew > len(split) / 3
    for other in (["data.batch_size=5"], ["data.num_workers=2"], ["data.augment.flip=0.5"]):
        assert drawn([*flyp, *other]) == found
    assert drawn(flyp, world=2) == found
    assert drawn([*flyp, "seed=1"]) != found


def test_an_evaluated_row_gets_the_first_template(flyp: list[str]) -> None:
    config = compose("train", flyp).config
    splits = load_splits(config.data, config.seed)
    task = build.build_task(config.task)
    task.fit(splits["train"].table.labels(splits["train"].rows))
    model = build.build_model(config.model, task.make_head, config.seed)
    data = build.build_data(config, splits, model, task)
    split = splits["val"]
    for position, label in enumerate(split.table.labels(split.rows)):
        text = f"a {label}".replace("_", " ")
        assert data.datasets["val"].text(position).tolist() == model.text_encoder.tokenizer(text)["input_ids"]


@pytest.fixture(scope="module")
def run(shapes: Shapes, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run from the shell's arguments."""
    runs = tmp_path_factory.mktemp("runs")
    typed = [*FLYP, "task.same_text=negative", "trainer.max_epochs=2", "callbacks.progress=none"]
    assert main(["train", *shapes.overrides, *typed, f"paths.runs={runs}"]) == 0
    return Run(next(runs.glob("*/*/config.yaml")).parent)


def test_a_run_is_a_classifier(run: Run, shapes: Shapes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.summary["monitor"] == "val/zero_shot/accuracy"
    assert set(run.summary["test"]) == {"zero_shot/accuracy", "loss"}
    assert set(run.summary["embeddings"]) == {"image/linear_probe", "image/knn"}  # captions contain the labels
    assert any("lora" not in name and name.startswith("text_encoder") for name in run.model_state)
    assert "is not trained" not in (run.path / "train.log").read_text()
    assert main(["test", f"run={run.path}"]) == 0
    printed = dict(line.split() for line in capsys.readouterr().out.splitlines() if " " in line)
    assert float(printed["accuracy"]) == pytest.approx(run.summary["test"]["zero_shot/accuracy"], abs=1e-6)
    out = tmp_path / "out.csv"
    assert main(["predict", f"run={run.path}", f"data.path={shapes.rows}", f"out={out}"]) == 0
    rows = list(csv.DictReader(out.open()))
    labels = {row["label"] for row in csv.DictReader(shapes.rows.open())}
    assert {row["prediction"] for row in rows} <= labels
    assert all(row["score"] and not row["error"] for row in rows)
    assert main(["embed", f"run={run.path}", f"data.path={shapes.rows}", f"out={tmp_path / 'out.npz'}"]) == 0
    assert main(["test", f"run={run.path}", "data.columns.text=text"]) == 2
    assert "the run makes its texts of labels" in capsys.readouterr().err
    loaded = mmft.load(run.path)
    with pytest.raises(UserError, match=r"Use model.zero_shot\(LABELS\).predict\(rows\); its own labels: blue cross,"):
        loaded.predict([{"image": str(shapes.rows)}])
    model = loaded.zero_shot(sorted(labels), "photo")
    found = model.predict(
        [{"image": str(shapes.rows.parent / row["image"])} for row in csv.DictReader(shapes.rows.open())]
    )
    assert {answer["prediction"] for answer in found} <= labels


def test_check_counts_the_labels(flyp: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    typed = [one for one in flyp if not one.startswith(("callbacks", "modality_report"))]
    assert main(["check", *typed]) == 0
    printed = capsys.readouterr().out
    assert "red disc" in printed
    assert "pairs" not in printed
    assert "Training would work." in printed


def test_training_moves_by_the_templates(train_run: TrainRun) -> None:
    typed = [*FLYP[:3], "trainer.max_epochs=1"]
    assert not same_weights(train_run(*typed), train_run(*typed, "task.templates=simple"))


@pytest.mark.slow
@pytest.mark.parametrize("step", [2, 4])
def test_resume_is_exact(train_run: TrainRun, shapes_overrides: list[str], tmp_path: Path, step: int) -> None:
    typed = [*FLYP, "checkpoint.every_steps=1"]
    undisturbed = train_run(*typed)
    killed_run([*shapes_overrides, *typed], tmp_path / "killed", step, "after")
    run = resumed([*shapes_overrides, *typed], tmp_path / "killed")
    assert same_weights(run, undisturbed)


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["data.columns.text=text"], "task.texts: templates makes the texts of labels, so data.columns.text='text'"),
        (
            ["data.columns.label=null"],
            "task.texts: templates makes the texts of labels. Type data.columns.label=COLUMN",
        ),
        (["task.templates=foto"], "task.templates: 'foto' is not allowed"),
        (["task.texts=column"], "task=contrastive pairs images with texts"),
    ],
)
def test_what_is_refused(typed: list[str], said: str, flyp: list[str]) -> None:
    with pytest.raises(UserError) as error:
        compose("train", [*flyp, *typed])
    assert any(said in message for message in error.value.messages), error.value.messages
