"""Every task with every fusion that goes with it learns 16 rows by heart: all cells of the table, none left out."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
import torch
from make_shapes import Shapes
from needed_overrides import must
from small_fusions import FUSIONS, PAIRWISE, small
from torch import Tensor

from mmft import build
from mmft.config.compose import compose
from mmft.config.registry import options
from mmft.data.splitting.splits import load_splits
from mmft.errors import UserError
from mmft.training.hard_negatives import with_negatives

ROWS, STEPS = 16, 300
TASKS = [name for name, found in options("task").items() if not found.schema.generates]  # type: ignore[attr-defined]
"""The others are in tests/tasks/test_generation.py."""
GOOD = {  # the metric, and when the rows are known by heart
    "classification": ("accuracy", lambda value: value == 1.0),
    "regression": ("r2", lambda value: value >= 0.98),
    "multi_label": ("exact_match", lambda value: value == 1.0),
    "question_answering": ("vqa_accuracy", lambda value: value == 1.0),
    "contrastive": ("mean_recall", lambda value: value == 1.0),
    "several": ("label/accuracy", lambda value: value == 1.0),
    # Of each row's own text, and of one that is not its own, which the one batch here may never have drawn for it.
    "matching": ("accuracy", lambda value: value >= 0.9),
}
OVER_PAIRS = {name for name, found in options("task").items() if found.schema.pairwise}  # type: ignore[attr-defined]
CELLS = [(task, fusion) for task in TASKS for fusion in PAIRWISE + FUSIONS]
NO_COMPARISON = ("matching", "linear")  # a sum of a score of the image and one of the text
REFUSED = [(task, fusion) for task, fusion in CELLS if (task in OVER_PAIRS) != (fusion in PAIRWISE)] + [NO_COMPARISON]
ALLOWED = [cell for cell in CELLS if cell not in REFUSED]
QUICK = {
    ("several", "concat"),
    ("matching", "concat"),
    ("contrastive", "dual"),
    ("regression", "film"),
    ("multi_label", "cross"),
    ("classification", "low_rank"),
}


@pytest.fixture(scope="module")
def overrides(shapes: Shapes, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """By task: 16 rows, each with an image and a text that no other one has, and labels for the task."""
    frame = pd.read_csv(shapes.rows).dropna(subset=["image", "text"]).query("split == 'train'")
    frame = frame.groupby("label").head(3).head(ROWS).reset_index(drop=True)
    frame["text"] = [f"{text} number {number}" for number, text in enumerate(frame["text"])]
    frame["number"] = [(7 * at) % ROWS / 3 for at in range(ROWS)]
    frame["answers"] = [f"{f'{label}|' * 4}{at % 3}" for at, label in enumerate(frame["label"])]  # worth 1 and 4/15
    for bit in range(4):
        frame[f"bit{bit}"] = [(at >> bit) & 1 for at in range(ROWS)]
    path = tmp_path_factory.mktemp("heart") / "rows.csv"
    frame.to_csv(path, index=False)
    kept = [o for o in shapes.overrides if not o.startswith(("data.columns.label", "data.path", "data.root"))]
    where = [*kept, f"data.path={path}", f"data.root={shapes.rows.parent}", "data.columns.split=null"]
    where += [f"data.fractions.{name}={share}" for name, share in (("train", 1), ("val", 0), ("test", 0))]
    where += [f"data.batch_size={ROWS}", "model.dropout=0"]
    labels = {"regression": "number", "multi_label": "[bit0,bit1,bit2,bit3]", "contrastive": "null", "matching": "null"}
    labels["question_answering"] = "answers"
    more = {"question_answering": ["task.min_count=1"]}
    return {task: [*where, f"data.columns.label={labels.get(task, 'label')}", *more.get(task, [])] for task in TASKS}


@pytest.mark.parametrize(
    ("task", "fusion"),
    [pytest.param(*cell, marks=[] if cell in QUICK else pytest.mark.slow) for cell in ALLOWED],
)
def test_16_rows_are_learned_by_heart(task: str, fusion: str, overrides: dict[str, list[str]]) -> None:
    typed = [*overrides[task], f"task={task}", f"model/fusion={fusion}", *small(fusion)]
    typed += ["optim.lr=1e-3", "optim.head_lr=3e-3", *must("task", task)]
    config = compose("train", typed).config
    splits = load_splits(config.data, 0)
    made = build.build_task(config.task)
    made.fit(splits["train"].table.labels(splits["train"].rows))
    model = build.build_model(config.model, made.make_head, seed=0)
    plan = build.build_plan(config, model)
    data = build.build_data(config, splits, model, made)
    batch = next(iter(data.train_dataloader()))
    (measured,) = data.evaluation_loader("train")  # of pairs: each row's own text, and one of another row
    assert len(batch) == len(measured) == ROWS
    module = build.build_module(config, model, made, plan)
    module.micro_batch_size = 5
    optimizer: Any = module.configure_optimizers()
    name, good = GOOD[task]
    for step in range(STEPS):
        module.update(batch, optimizer, step, Tensor.backward)
        if step % 20 == 19:
            metrics = made.metrics()
            with torch.no_grad():
                made.update(metrics, *with_negatives(model.eval(), measured))
            model.train()
            if good(made.scalars(metrics)[name]):
                return
    raise AssertionError(f"{name} {made.scalars(metrics)[name]} after {STEPS} steps")


@pytest.mark.parametrize(("task", "fusion"), REFUSED)
def test_what_makes_no_sense_is_refused(task: str, fusion: str, overrides: dict[str, list[str]]) -> None:
    with pytest.raises(UserError, match=f"model.fusion: {fusion} does not go with task={task}"):
        compose("train", [*overrides[task], f"task={task}", f"model/fusion={fusion}", *must("task", task)])


def test_every_task_has_a_measure() -> None:
    assert set(GOOD) == set(TASKS)
