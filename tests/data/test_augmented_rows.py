"""Which draws a row gets: by seed, epoch and row, whatever workers, ranks and batches there are; in training alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import TrainRun, killed_run, resumed, same_weights
from transformers import PreTrainedTokenizerFast

from mmft.batch import Batch, Sample
from mmft.config.schema.augment import AugmentConfig
from mmft.config.schema.data import DataConfig
from mmft.data.augmented_rows import AugmentedRows, Draws, times_before
from mmft.data.balance import BalancedOrder
from mmft.data.collate import Collate
from mmft.data.datamodule import VisionLanguageData
from mmft.data.order import BatchSizes, LogicalBatches, StepPlan, epoch_order
from mmft.data.splitting.splits import load_splits
from mmft.data.targets import Encode

CLASSES = ["disc", "cross"]
EVERYTHING = AugmentConfig(
    crop=0.4,
    flip=0.5,
    policy="rand_augment",
    color_jitter=0.3,
    erasing=0.5,
    mixup=0.5,
    cutmix=0.5,
    token_dropout=0.3,
)


class Module:
    """The data module, and the optimizer steps that are done."""

    def __init__(self, config: DataConfig, tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> None:
        splits = load_splits(config, 0)
        plan = StepPlan(len(splits["train"]), BatchSizes({0: config.batch_size}), max_epochs=3)
        self.steps = 0
        self.data = VisionLanguageData(
            splits, config, tokenizer=tokenizer, max_length=9, image_size=16, encode=Encode(CLASSES.index), seed=seed,
            plan=plan, classes_of=lambda target: target,
        )  # fmt: skip
        self.data._steps_done = lambda: self.steps  # type: ignore[method-assign]

    def epoch(self, steps: int = 0) -> list[Batch]:
        """Training batches from an optimizer step on."""
        self.steps = steps
        return list(self.data.train_dataloader())


def by_row(batches: Iterable[Batch]) -> dict[int, tuple[Any, ...]]:
    """What each row is given, without the padding that its batch has."""
    found = {}
    for b in batches:
        for at, row in enumerate(b.row.tolist()):
            assert b.pixel_values is not None
            assert b.input_ids is not None
            assert b.attention_mask is not None
            assert b.target is not None
            share = 0.0 if b.mixed_share is None else b.mixed_share[at].item()
            other = b.target[at].item() if b.mixed_target is None else b.mixed_target[at].item()
            text = b.input_ids[at][b.attention_mask[at]].tolist()
            found[row] = (b.pixel_values[at].numpy().tobytes(), text, b.target[at].item(), other, share)
    return found


def same(left: Iterable[Batch], right: Iterable[Batch]) -> bool:
    def equal(a: Any, b: Any) -> bool:
        return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b

    pairs = zip(left, right, strict=True)
    return all(equal(getattr(a, f.name), getattr(b, f.name)) for a, b in pairs for f in fields(Batch))


@pytest.fixture
def augmented(config: DataConfig) -> DataConfig:
    return replace(config, augment=EVERYTHING)


def test_workers_epochs_and_where_one_begins_change_nothing(
    augmented: DataConfig, tokenizer: PreTrainedTokenizerFast
) -> None:
    alone, helped = Module(augmented, tokenizer), Module(replace(augmented, num_workers=2), tokenizer)
    epochs = [alone.epoch(), alone.epoch(3)]
    assert same(epochs[0], alone.epoch())
    assert same(epochs[0], helped.epoch())
    assert same(epochs[1], helped.epoch(3))  # the same workers
    assert same(epochs[1][1:], helped.epoch(4))
    helped.data.train_dataloader()._iterator._shutdown_workers()  # type: ignore[union-attr]
    first, second = map(by_row, epochs)
    assert first.keys() == second.keys()
    assert all(first[row][0] != second[row][0] for row in first if row != 5)  # 5 has no image
    other = by_row(Module(augmented, tokenizer, seed=1).epoch())
    assert sum(first[row][0] != other[row][0] for row in first) >= len(first) - 1


def test_batch_size_and_ranks_change_nothing(augmented: DataConfig, tokenizer: PreTrainedTokenizerFast) -> None:
    expected = by_row(Module(augmented, tokenizer).epoch())
    assert by_row(Module(replace(augmented, batch_size=3), tokenizer).epoch()) == expected
    module = Module(augmented, tokenizer)
    rows, order = module.data._training_rows()
    dealt = [chain(*LogicalBatches(module.data.plan, order, lambda: 0, rank, 3)) for rank in range(3)]
    samples = [rows[draw] for draw in chain(*dealt)]
    tokens = module.data._collates["train"]
    assert by_row([tokens(samples)]) == expected


def test_only_training_batches_are_changed(
    config: DataConfig, augmented: DataConfig, tokenizer: PreTrainedTokenizerFast
) -> None:
    plain, changed = Module(config, tokenizer), Module(augmented, tokenizer)
    assert not same(plain.epoch(), changed.epoch())
    for name in ("train", "val", "test"):  # "train": what the modality report sees
        assert same(plain.data.evaluation_loader(name), changed.data.evaluation_loader(name))
    assert same(plain.data.val_dataloader(), changed.data.val_dataloader())
    rows, order = plain.data._training_rows()
    assert rows is plain.data.datasets["train"]  # off is off
    assert order is plain.data._order


def test_kept_images_are_never_written_to(augmented: DataConfig, tokenizer: PreTrainedTokenizerFast) -> None:
    module = Module(augmented, tokenizer)
    memory = module.data.datasets["train"].images
    list(module.data.evaluation_loader("train"))
    kept = memory._pixels.clone()
    assert memory.filled == len(memory.split) - 2  # one is bad, one has none
    for epoch in range(3):
        module.epoch(3 * epoch)
    assert torch.equal(memory._pixels, kept)


def test_rows_without_a_image_or_a_good_partner_are_not_mixed(
    config: DataConfig, tokenizer: PreTrainedTokenizerFast
) -> None:
    module = Module(replace(config, augment=AugmentConfig(mixup=1.0)), tokenizer)
    rows, _ = module.data._training_rows()
    assert isinstance(rows, AugmentedRows)
    position = {int(row): at for at, row in enumerate(rows.rows.split.rows)}
    draws = {"mixed": (0, 1), "itself": (0, 0), "no image": (5, 0), "partner has none": (0, 5), "partner bad": (0, 4)}
    found = {name: rows[position[own], 0, 0, position[other]] for name, (own, other) in draws.items()}
    assert [name for name, sample in found.items() if sample.mixed_target is not None] == ["mixed"]
    assert found["mixed"].target == 0
    assert found["mixed"].mixed_target == 1
    assert found["mixed"].mixed_share > 0
    assert found["no image"].pixel_values is None
    bad = rows[position[4], 0, 0, position[0]]
    assert bad.bad is not None
    assert bad == rows.rows[position[4]]
    plain = rows.rows[position[0]].pixel_values
    for name in ("itself", "partner has none", "partner bad"):
        assert torch.equal(found[name].pixel_values, plain)  # type: ignore[arg-type]


def test_what_is_mixed_is_what_is_told(config: DataConfig, tokenizer: PreTrainedTokenizerFast) -> None:
    """Images of the table are of one colour each, so that the share can be read off."""
    module = Module(replace(config, augment=AugmentConfig(mixup=1.0)), tokenizer)
    plain = {row: given[0][0] for row, given in by_row(module.data.evaluation_loader("train")).items()}
    seen = 0
    for b in module.epoch():
        assert b.mixed_share is not None
        assert b.mixed_target is not None
        assert b.pixel_values is not None
        for at, row in enumerate(b.row.tolist()):
            share, red = b.mixed_share[at].item(), b.pixel_values[at, 0, 0, 0].item()
            if share > 0.2:  # the images' red is the row's number
                partner = plain[row] + (red - plain[row]) / share
                near = [r for r in plain if r != 5 and abs(plain[r] - partner) <= 0.5 / share]
                assert b.mixed_target[at].item() in {r % 2 for r in near}
                seen += 1
    assert seen >= 5


def test_draws_are_pure_and_partners_are_everybody_once() -> None:
    draws = Draws(partial(epoch_order, 50, 3), seed=3, mixes=True)
    found = draws(4)
    np.random.seed(0)  # noqa: NPY002 - global state must not matter
    assert (found == draws(4)).all()
    assert found.shape == (50, 4)
    assert (found[:, 0] == epoch_order(50, 3, 4)).all()
    assert (found[:, 1] == 4).all()
    assert not found[:, 2].any()
    assert sorted(found[:, 3]) == list(range(50))
    assert (found[:, 0] == found[:, 3]).sum() < 6
    assert (draws(5)[:, 3] != found[:, 3]).any()
    alone = Draws(partial(epoch_order, 50, 3), seed=3, mixes=False)(4)
    assert (alone[:, 0] == alone[:, 3]).all()


def test_a_row_that_comes_again_is_changed_in_another_way(
    config: DataConfig, tokenizer: PreTrainedTokenizerFast
) -> None:
    assert times_before(np.array([3, 1, 3, 3, 1, 0])).tolist() == [0, 0, 1, 2, 1, 0]
    classes = np.array([0] * 9 + [1])
    found = Draws(BalancedOrder(classes, 0), seed=0, mixes=True)(0)
    assert sorted(found[found[:, 0] == 9][:, 2]) == [0, 1, 2, 3, 4]
    assert (found[:, 3] == 9).sum() == 5  # partners are balanced, too
    rows, _ = Module(
        replace(config, augment=AugmentConfig(crop=0.3, color_jitter=0.5)), tokenizer
    ).data._training_rows()
    images = [rows[0, 0, before, 0].pixel_values.numpy().tobytes() for before in (0, 1, 2, 0)]
    assert len(set(images)) == 3
    assert images[0] == images[3]


def test_seeds_are_pinned(config: DataConfig, tokenizer: PreTrainedTokenizerFast) -> None:
    """A run must be repeatable for ever."""
    rows, _ = Module(replace(config, augment=EVERYTHING), tokenizer, seed=2**63 - 1).data._training_rows()
    assert isinstance(rows, AugmentedRows)
    pinned = [1746002250797594470, 2415806417998446413, 6299385579507063884, 4254055457439135885, 1146486830329979815]
    assert rows._seeds(epoch=4, row=7, before=1) == [*pinned, 5675477584821093108]
    drawn = [seed for e in range(3) for r in range(3) for b in range(3) for seed in rows._seeds(e, r, b)]
    assert len(set(drawn)) == len(drawn)


def test_collation_gives_unmixed_rows_their_own_target() -> None:
    def sample(row: int, **mixed: Any) -> Sample:
        return Sample(row, torch.zeros(3, 4, 4, dtype=torch.uint8), None, torch.tensor(row), **mixed)

    collate = Collate(0, np.zeros(1, np.int32), target=torch.tensor(0))
    batch = collate([sample(1), sample(2, mixed_target=torch.tensor(7), mixed_share=0.25)])
    assert batch.mixed_target is not None
    assert batch.mixed_share is not None
    assert batch.mixed_target.tolist() == [1, 7]
    assert batch.mixed_share.tolist() == [0, 0.25]
    parts = list(batch.split(1))
    assert [part.mixed_target.tolist() for part in parts if part.mixed_target is not None] == [[1], [7]]
    assert collate([sample(1), sample(2)]).mixed_target is None


EACH = ("crop=0.5", "flip=0.5", "policy=trivial_augment", "policy=rand_augment", "color_jitter=0.3", "erasing=0.5")
EACH += ("mixup=0.5", "cutmix=1", "token_dropout=0.4")


@pytest.mark.slow
def test_a_run_trains_with_each(train_run: TrainRun) -> None:
    short = ("trainer.max_epochs=1", "data.limit=32")
    runs = {given: train_run(*short, *([f"data.augment.{given}"] if given else [])) for given in ("", *EACH)}
    assert len({run.summary["test"]["loss"] for run in runs.values()}) == len(runs)
    assert not any(same_weights(run, runs[""]) for given, run in runs.items() if given)


@pytest.mark.slow
def test_a_resumed_run_is_the_same_bit_for_bit(
    train_run: TrainRun, shapes_overrides: list[str], tmp_path: Path
) -> None:
    names = [f"data.augment.{f.name}={getattr(EVERYTHING, f.name)}" for f in fields(EVERYTHING)]
    typed = [
        *(name for name in names if not name.endswith("None")),
        "data.sampler=balanced",
        "checkpoint.every_steps=1",
    ]
    undisturbed = train_run(*typed)
    killed_run([*shapes_overrides, *typed], tmp_path / "killed", 4, "after")  # in the middle of the second epoch
    run = resumed([*shapes_overrides, *typed], tmp_path / "killed")
    assert run.summary["resumed_from"] == [4]
    helped = train_run(*typed, "data.num_workers=2", "data.picture_memory=0")
    for other in (run, helped):
        assert same_weights(other, undisturbed)
        assert other.metrics == undisturbed.metrics
