"""Reference answers of a row: which one is learned in an epoch, and that evaluated rows keep them all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import transformers as hf
from make_shapes import Shapes

from mmft.config.compose import compose
from mmft.config.schema.data import DataConfig
from mmft.data.augmented_rows import AugmentedRows, Draws
from mmft.data.collate import Collate
from mmft.data.images.augment import Augmentation
from mmft.data.loading import make_collate, make_dataset
from mmft.data.splitting.splits import Split, load_splits
from mmft.data.targets import Encode
from mmft.tasks.generation import Generation

ANSWERS = [["red", "blue", "green"], ["disc"], ["cross", "red disc"]]


@pytest.fixture
def task(language_model_folder: Callable[..., Path]) -> Generation:
    made = Generation(max_answer_tokens=6, references="random")
    made.start_generation(hf.AutoTokenizer.from_pretrained(language_model_folder("llama")))
    return made


@pytest.fixture
def config(shapes: Shapes, tmp_path: Path) -> Any:
    rows = [{"text": "what is it", "label": ANSWERS[at % 3], "split": "train"} for at in range(12)]
    rows += [{**rows[0], "split": "val"}, {**rows[1], "split": "test"}]
    pd.DataFrame(rows).to_json(tmp_path / "rows.jsonl", orient="records", lines=True)
    typed = ["task=classification", "data.columns.image=null", f"data.path={tmp_path / 'rows.jsonl'}"]
    return compose("train", [*shapes.overrides, *typed]).config.data


def dataset(split: Split, config: DataConfig, task: Generation, *, evaluated: bool) -> Any:
    return make_dataset(
        split,
        config,
        tokenizer=task.tokenizer,
        max_length=64,
        image_size=32,
        encode=Encode.of(task),
        evaluated=evaluated,
    )


def learned(rows: AugmentedRows, task: Generation, epoch: int, seed: int) -> dict[int, str]:
    """The answer of each row in an epoch."""
    order = Draws(lambda _: np.arange(len(rows)), seed, mixes=False)(epoch)
    samples = [rows[line] for line in order.tolist()]
    return {
        one.row: task.tokenizer.decode([token for token in one.target.tolist() if token >= 0])
        for one in samples
        if one.target is not None
    }


def test_an_answer_is_drawn_anew_in_each_epoch(task: Generation, config: Any) -> None:
    data = dataset(load_splits(config, 0)["train"], config, task, evaluated=False)
    change = Augmentation(config.augment, 32, (255, 255, 255), [], [])
    by_seed = [AugmentedRows(data, change, seed) for seed in (0, 0, 1)]
    epochs = [learned(by_seed[0], task, epoch, 0) for epoch in range(20)]
    for row, answers in ((row, ANSWERS[row % 3]) for row in range(12)):
        assert {epoch[row] for epoch in epochs} == set(answers)
    assert [learned(by_seed[1], task, epoch, 0) for epoch in range(20)] == epochs
    assert [learned(by_seed[2], task, epoch, 1) for epoch in range(20)] != epochs


def test_evaluated_rows_keep_all_of_them(task: Generation, config: Any) -> None:
    data = dataset(load_splits(config, 0)["train"], config, task, evaluated=True)
    collate: Collate = make_collate(data, task.tokenizer, 64)
    batch = collate([data[at] for at in range(3)])
    assert batch.references == tuple(map(tuple, ANSWERS))
    assert [part.references for part in batch.split(2)] == [batch.references[:2], batch.references[2:]]
    assert batch.to("cpu").references == batch.references
    assert data.drawn is None
    training = dataset(load_splits(config, 0)["train"], config, task, evaluated=False)
    assert collate([training[at] for at in range(3)]).references == ()
