"""`data.sampler=balanced`: every class equally often, every row of a class evenly, pure, seekable, dealt to ranks."""

from __future__ import annotations

import csv
import logging
from collections import Counter
from dataclasses import replace
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from make_shapes import Shapes
from runs import TrainRun, killed_run, resumed, same_weights

from mmft import build
from mmft.config.compose import compose
from mmft.config.rules import check
from mmft.config.schema.task import TaskConfig
from mmft.data.balance import BalancedOrder
from mmft.data.order import BatchSizes, LogicalBatches, StepPlan, Stream, epoch_order, philox_order
from mmft.data.splitting.splits import load_splits
from mmft.errors import UserError

SIZES = [70, 20, 7, 1]  # rows of each class; 98 in all and two without one
CLASSES = np.array([-1, *np.repeat(range(4), SIZES), -1])[np.random.Philox(key=0).random_raw(100).argsort()]


def epochs(count: int, seed: int = 5, classes: npt.NDArray[np.int64] = CLASSES) -> list[npt.NDArray[np.int64]]:
    order = BalancedOrder(classes, seed)
    return [order(epoch) for epoch in range(count)]


def test_classes_are_equally_frequent_in_every_epoch() -> None:
    assert BalancedOrder(CLASSES, 0).sizes.tolist() == SIZES
    for order in epochs(20):
        assert np.bincount(CLASSES[order]).tolist() == [25] * 4


@pytest.mark.parametrize("rows", [5, 17, 99])
def test_a_remainder_goes_round(rows: int) -> None:
    """K classes do not divide the rows: one row more for some, equal over K epochs, in expectation over seeds."""
    classes = np.arange(rows) % 4
    counts = [np.bincount(classes[order], minlength=4) for order in epochs(4, classes=classes)]
    assert all(c.sum() == rows and c.max() - c.min() <= 1 for c in counts)
    assert sum(counts).tolist() == [rows] * 4
    first = sum(np.bincount(classes[BalancedOrder(classes, seed)(0)], minlength=4) for seed in range(400)) / 400
    assert np.abs(first - rows / 4).max() < 0.1


def test_rows_of_a_class_come_evenly_over_epochs() -> None:
    for count in (1, 2, 3, 10):
        seen = np.bincount(np.concatenate(epochs(count)), minlength=100)
        for number in range(4):
            times = seen[number == CLASSES]
            assert times.max() - times.min() <= 1, (count, number)
        assert not seen[CLASSES == -1].any()


def test_it_is_pure_and_seekable() -> None:
    late = BalancedOrder(CLASSES, 5)(7)
    np.random.seed(0)  # noqa: NPY002 - global state must not matter
    assert (late == epochs(8)[7]).all()
    assert all((late != other).any() for other in [*epochs(7), BalancedOrder(CLASSES, 6)(7)])
    # pinned: a run must be repeatable for ever
    assert BalancedOrder(np.array([0, 0, 0, 1, 0, 1]), 0)(0).tolist() == [1, 0, 4, 5, 5, 3]
    with pytest.raises(ValueError, match="no row has a class"):
        BalancedOrder(np.array([-1, -1]), 0)


def test_streams_differ() -> None:
    streams = ((Stream.ORDER, 0), (Stream.CLASS_PLACES, 0), (Stream.CLASS_ROWS, 1), (Stream.CLASS_ROWS, 2))
    orders = [philox_order(50, 3, number, *stream) for number in (0, 1) for stream in streams]
    assert len({tuple(order) for order in orders}) == len(orders)
    assert (philox_order(50, 3, 1, Stream.ORDER) == epoch_order(50, 3, 1)).all()


def test_a_row_without_a_class_shifts_no_other() -> None:
    """The draws of the other classes are the same whichever row it is that has none."""
    classes = np.arange(40) % 2
    spoilt = classes.copy()
    spoilt[classes == 0] = np.where(np.arange(20) < 3, -1, 0)
    whole, part = (BalancedOrder(c, 1)(3) for c in (classes, spoilt))
    assert (whole[classes[whole] == 1] == part[classes[part] == 1]).all()
    assert ((classes[whole] == 1) == (classes[part] == 1)).all()


@pytest.mark.parametrize("world", [1, 2, 3])
def test_shares_of_ranks_are_the_logical_batch_and_any_step_can_be_entered(world: int) -> None:
    plan, order = StepPlan(100, BatchSizes({0: 16}), max_epochs=3), BalancedOrder(CLASSES, 2)
    whole = list(LogicalBatches(plan, order, lambda: 7))
    assert list(chain(*whole)) == order(1).tolist()
    shares = [list(LogicalBatches(plan, order, lambda: 7, rank, world)) for rank in range(world)]
    for step, batch in enumerate(whole):
        assert sorted(chain(*(share[step] for share in shares))) == sorted(batch)
        assert batch[0] == shares[0][step][0]
    assert list(LogicalBatches(plan, order, lambda: 10)) == whole[3:]


@pytest.fixture
def skewed(shapes: Shapes, tmp_path: Path) -> Path:
    """The sample's table with most rows of three labels left out, and two training rows with no label."""
    with shapes.rows.open() as file:
        rows = list(csv.DictReader(file))
    seen: Counter[tuple[str, str]] = Counter()
    kept = []
    for row in rows:
        key = row["split"], row["label"]
        seen[key] += 1
        if row["label"].endswith("disc") or row["split"] != "train" or seen[key] <= 3:
            kept.append(row | {"image": str(shapes.rows.parent / row["image"])})
    trained = [row for row in kept if row["split"] == "train"]
    trained[4]["label"] = trained[9]["label"] = ""
    with (tmp_path / "skewed.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(kept[0]))
        writer.writeheader()
        writer.writerows(kept)
    return tmp_path / "skewed.csv"


def labels_of_epoch(overrides: list[str], *typed: str) -> Counter[Any]:
    config = compose("train", [*overrides, "data.sampler=balanced", *typed]).config
    splits = load_splits(config.data, config.seed)
    task = build.build_task(config.task)
    task.fit(splits["train"].table.labels(splits["train"].rows))
    model: Any = build.build_model(config.model, task.width, 0)
    data = build.build_data(config, splits, model, task)
    drawn = list(chain(*data.train_dataloader().batch_sampler))
    assert len(drawn) == len(splits["train"])
    return Counter(splits["train"].table.labels(splits["train"].rows[drawn]))


def test_labels_of_a_table(shapes_overrides: list[str], skewed: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        counts = labels_of_epoch(shapes_overrides, f"data.path={skewed}", "data.limit=null")
    assert None not in counts
    assert len(counts) == 6
    assert max(counts.values()) - min(counts.values()) <= 1
    assert "an epoch draws 99 rows, equally many of each of 6 classes (2 to 30 rows)" in caplog.text
    few = labels_of_epoch(shapes_overrides, f"data.path={skewed}", "data.limit=40")
    assert few.total() == 40
    assert max(few.values()) - min(few.values()) <= 1


@pytest.mark.slow
def test_a_resumed_run_is_the_same_bit_for_bit(
    train_run: TrainRun, shapes_overrides: list[str], skewed: Path, tmp_path: Path
) -> None:
    typed = [f"data.path={skewed}", "data.sampler=balanced", "checkpoint.every_steps=1", "data.max_bad_fraction=1"]
    undisturbed = train_run(*typed)
    overrides = [*shapes_overrides, *typed]
    for step in (2, 4):
        folder = tmp_path / f"killed{step}"
        killed_run(overrides, folder, step, "after")
        run = resumed(overrides, folder)
        assert run.summary["resumed_from"] == [step]
        assert same_weights(run, undisturbed)
        assert run.metrics == undisturbed.metrics
    workers = train_run(*typed, "data.num_workers=2")
    assert same_weights(workers, undisturbed)
    shuffled = train_run(*typed, "data.sampler=shuffled")
    assert not same_weights(shuffled, undisturbed)


def test_where_it_is_refused(shapes_overrides: list[str]) -> None:
    balanced = [*shapes_overrides, "data.sampler=balanced"]
    with pytest.raises(UserError, match=r"data.sampler: balanced with task.class_weights=balanced"):
        compose("train", [*balanced, "task.class_weights=balanced"])
    config = compose("train", balanced).config

    class NoClasses(TaskConfig):
        type = "nothing"

    problems = check(replace(config, task=NoClasses()), set())
    assert [p.key for p in problems] == ["data.sampler"]
    assert "task=nothing has none. Type data.sampler=shuffled" in problems[0].text
    splits = load_splits(config.data, 0)
    task = build.build_task(config.task)
    task.fit(splits["train"].table.labels(splits["train"].rows))
    model: Any = build.build_model(config.model, task.width, 0)
    plain: Any = SimpleNamespace(
        encode=task.encode,
        encode_evaluated=task.encode_evaluated,
        facts=TaskConfig,
        candidates=0,
        captions_of=None,
        classes=lambda _: None,
    )
    with pytest.raises(UserError, match=r"data.sampler=balanced: the task has no classes"):
        build.build_data(config, splits, model, plain)
