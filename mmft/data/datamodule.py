"""`VisionLanguageData`: the splits as a Lightning data module, one training batch per optimizer step."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from mmft.batch import BadRow, Batch, Sample
from mmft.config.schema.data import DataConfig
from mmft.data.augmented_rows import AugmentedRows, Draws
from mmft.data.bad_rows import why_unusable
from mmft.data.balance import BalancedOrder
from mmft.data.batches_ahead import BatchesAhead
from mmft.data.candidates import NextInBatch, WithCandidates
from mmft.data.collate import Collate
from mmft.data.dataset import RowDataset
from mmft.data.images.augment import Augmentation, Transform, in_words
from mmft.data.job_cache import JOB_CACHE
from mmft.data.loading import make_collate, make_dataset, make_loader
from mmft.data.order import LogicalBatches, Order, StepPlan, epoch_order, evaluation_batches
from mmft.data.splitting.splits import Split
from mmft.data.table import in_no_split
from mmft.data.targets import ClassesOf, Encode
from mmft.data.text import check_readable, special_ids
from mmft.data.views import Views
from mmft.errors import UserError
from mmft.ranks import started

log = logging.getLogger(__name__)
Loader = DataLoader[Batch] | BatchesAhead


class VisionLanguageData(LightningDataModule):
    """Data sets and loaders of the splits. The constructor tokenises texts and encodes labels, once.

    The Trainer needs `use_distributed_sampler=False`: batches are assigned to ranks here.

    Args:
        splits: by name; `train`, `val`, `test` or several test tables (`mmft.data.splitting.names.splits_to_test`).
        config: the keys below `data`.
        tokenizer: a tokenizer of transformers.
        max_length: maximum number of tokens per text.
        image_size: side of the images in pixels.
        encode: the task's `encode(label)`; None for no targets.
        seed: of the order and the augmentation of training rows.
        plan: of the run's optimizer steps.
        classes_of: the task's `classes`, for `data.sampler=balanced`; None without classes.
        transforms: built from `data.augment.extra`.
        views: how many augmentations there are of each training image; None for a new one each time.

    Attributes:
        rows: number of rows of each split.
        rows_read: number of rows of the splits and of no known split.
        table_bad: rows of the splits, or of no known split, that are known to be bad before any image is opened.
        texts_cut: number of texts truncated to `max_length`, by split.
        rows_change: whether what the store has of the rows changes between epochs; workers then start anew.

    Raises:
        UserError: no row of a split has a usable label, the tokenizer cannot read the training texts, or `data.sampler`
            needs classes that the task does not have.
    """

    def __init__(
        self,
        splits: Mapping[str, Split],
        config: DataConfig,
        *,
        tokenizer: Any,
        max_length: int,
        image_size: int,
        encode: Encode | None,
        seed: int,
        plan: StepPlan,
        classes_of: ClassesOf | None = None,
        transforms: Sequence[Transform] = (),
        views: int | None = None,
    ) -> None:
        super().__init__()
        self.config, self.plan, self._seed = config, plan, seed
        room = int(config.picture_memory * 2**30) // started().local_world
        self.datasets: dict[str, RowDataset] = {}
        for name, split in splits.items():
            self.datasets[name] = make_dataset(
                split,
                config,
                tokenizer=tokenizer,
                max_length=max_length,
                image_size=image_size,
                encode=encode,
                image_bytes=room,
                evaluated=name != "train",
            )
            room -= self.datasets[name].images.bytes
            self.datasets[name].find_missing_images()
        JOB_CACHE.all_is_asked()
        reader = self.datasets["train"].images.reader
        self._change = Augmentation(
            config.augment, reader.image_size, reader.background, special_ids(tokenizer), transforms
        )
        if views is not None:
            self.datasets["train"].views = Views(views, self._change, config.augment, seed)
        check_readable(self.datasets["train"].tokens, tokenizer)
        self._collates = {name: make_collate(data, tokenizer, max_length) for name, data in self.datasets.items()}
        self.rows = {name: len(split) for name, split in splits.items()}
        nowhere = in_no_split(split.table for split in splits.values())
        self.table_bad = nowhere + [row for data in self.datasets.values() for row in data.known_bad()]
        self.rows_read = sum(self.rows.values()) + len(nowhere)
        self.texts_cut = {name: data.tokens.cut for name, data in self.datasets.items()}
        self.rows_change = False
        self._train_loader: Loader | None = None  # one per run, so that its workers persist
        if encode is not None:
            self._check_labels()
        self._candidates = 0 if encode is None else encode.candidates
        self._order: Order = partial(epoch_order, plan.rows, seed)
        if config.sampler == "balanced":
            self._order = self._balanced(classes_of, seed)

    def train_dataloader(self) -> Loader:
        """This rank's share of every logical batch, starting at the current optimizer step.

        The same loader is returned for the whole run, so that its workers persist when Lightning requests it again.
        """
        if self._train_loader is None:
            rows, order = self._training_rows()
            batches = LogicalBatches(self.plan, order, self._steps_done, *self._place())
            self._train_loader = self._loader("train", batches, persistent=True, rows=rows)
        return self._train_loader

    def val_dataloader(self) -> Loader | list[Any]:
        """This rank's batches of the validation rows; empty without a validation split."""
        return self.evaluation_loader("val", persistent=True)

    def evaluation_loader(self, name: str, persistent: bool = False, whole: bool = False) -> Loader | list[Any]:
        """This rank's batches of the split's rows, in order; empty if there is no such split.

        A rank without a batch gets an empty one: otherwise Lightning would skip the evaluation on it, and the other
        ranks would wait forever to gather results.

        Args:
            name: of the split.
            persistent: see `make_loader`.
            whole: whether to return the batches of all ranks.
        """
        if name not in self.datasets:
            return []
        place = (0, 1) if whole else self._place()
        batches = evaluation_batches(self.rows[name], self.config.batch_size, *place)
        if self.rows[name] and not batches:
            batches = [range(0)]
        return self._loader(name, batches, persistent)

    def _training_rows(self) -> tuple[Dataset[Sample], Order]:
        """The training rows with augmentation, captions and candidates, if any, and the order of their requests.

        Only for training steps: `evaluation_loader("train")`, used by the modality report, `mmft check` and others,
        returns the rows without either.
        """
        rows, wanted = self.datasets["train"], in_words(self.config.augment)
        given: RowDataset | AugmentedRows = rows
        order = self._order
        if wanted:
            turns = "" if rows.views is None else f"; {rows.views.count} views of each image, in turn"
            log.info("training rows are augmented: %s%s", wanted, turns)
        if wanted or rows.captions is not None or rows.drawn is not None:
            given, order = AugmentedRows(rows, self._change, self._seed), Draws(order, self._seed, self._change.mixes)
        if not self._candidates:
            return given, order
        nearby = NextInBatch(order, rows, self.plan.batch_sizes, self._candidates, self._seed)
        return WithCandidates(rows, given, self._candidates), nearby

    def training_batch(self, positions: npt.NDArray[np.int64]) -> Batch:
        """The training rows at `positions` as one logical batch, without augmentation."""
        rows, count = self.datasets["train"], self._candidates
        if not count:
            return self._collates["train"]([rows[at] for at in positions.tolist()])
        nearby = NextInBatch(self._order, rows, self.plan.batch_sizes, count, self._seed)
        lines = nearby.lines(positions[:, None], max(1, len(positions)), 0).tolist()
        return self._collates["train"]([WithCandidates(rows, rows, count)[line] for line in lines])

    def _loader(self, name: str, batches: Any, persistent: bool, rows: Dataset[Sample] | None = None) -> Loader:
        pin = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        collate: Collate = self._collates[name]
        # Workers cost more than they save where nothing is decoded.
        workers = self.config.num_workers if self.datasets[name].decodes else 0
        rows = self.datasets[name] if rows is None else rows
        if persistent and isinstance(rows, RowDataset) and rows.stored and not (workers or pin or self._counts_tokens):
            return BatchesAhead(rows, batches, collate)
        return make_loader(
            rows, batches, collate, num_workers=workers, pin=pin, persistent=persistent and not self.rows_change
        )

    @property
    def _counts_tokens(self) -> bool:
        return self.config.micro_batch_tokens is not None

    def _steps_done(self) -> int:
        return 0 if self.trainer is None else self.trainer.global_step

    def _place(self) -> tuple[int, int]:
        """This rank and the number of ranks."""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _balanced(self, classes_of: ClassesOf | None, seed: int) -> Order:
        """The order of training rows with equal class frequencies."""
        data = self.datasets["train"]
        found = None if classes_of is None or data.targets is None else classes_of(data.targets)
        if found is None:
            raise UserError("data.sampler=balanced: the task has no classes. Type data.sampler=shuffled")
        good = np.array([row not in data.bad for row in data.split.rows.tolist()])
        order = BalancedOrder(np.where(good, found.numpy(), -1), seed)
        log.info(
            "data.sampler=balanced: an epoch draws %d rows, equally many of each of %d classes (%d to %d rows)",
            len(data),
            len(order.sizes),
            order.sizes.min(),
            order.sizes.max(),
        )
        return order

    def by_split(self, bad: Iterable[BadRow]) -> dict[str, list[BadRow]]:
        """The bad rows of each split, by name; of no known split under ""."""
        whose = {
            (row, data.split.table.id(row), data.split.table.split): name
            for name, data in self.datasets.items()
            for row in set(data.split.rows.tolist()) & {one.row for one in bad}
        }
        found: dict[str, list[BadRow]] = {}
        for one in bad:
            found.setdefault(whose.get((one.row, one.id, one.split), ""), []).append(one)
        return found

    def usable_rows(self, bad: Sequence[BadRow]) -> dict[str, int]:
        """The number of rows of each split without the bad ones."""
        of_split = self.by_split(bad)
        return {name: rows - len(of_split.get(name, ())) for name, rows in self.rows.items()}

    def _check_labels(self) -> None:
        without = {name: data for name, data in self.datasets.items() if data.targets is None}
        messages = [why_unusable(name, data.split.table.columns, data.known_bad()) for name, data in without.items()]
        if messages:
            raise UserError(messages)
