"""`data`: the table of rows, which column is which, how rows are split, read and batched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mmft.config.fields import field
from mmft.config.registry import section
from mmft.config.schema.augment import AugmentConfig


@dataclass(kw_only=True)
class ColumnsConfig:
    """`data.columns`: which column of the table is which. Never guessed."""

    image: str | None = None
    """Column of images: a path relative to the table's folder (or `data.root`), or encoded bytes."""
    text: str | list[str] | None = None
    """Column of texts, or several that are joined by a blank."""
    label: str | list[str] | None = None
    """Column of labels; needed to train and to test. Several for a task that has several targets."""
    id: str | None = None
    """Column of row ids; null: the row number."""
    split: str | None = field(
        None, not_with={"data.train": "the files are the splits. Leave data.columns.split out, or give data.path"}
    )
    """Column that says `train`, `val` or `test`."""
    weight: str | None = None
    """Column of sample weights, numbers of at least 0."""
    group: str | None = None
    """Column of groups: rows of one group never go to different splits."""


def names_of(given: str | list[str] | None) -> list[str]:
    """The column names that a role is given, as a list."""
    if given is None:
        return []
    return [given] if isinstance(given, str) else list(given)


@dataclass(kw_only=True)
class FractionsConfig:
    """`data.fractions`: shares of the splits where neither a column nor files give them. They add up to 1."""

    train: float = field(0.8, gt=0, le=1)
    """Share of the rows to train on."""
    val: float = field(0.1, ge=0, lt=1)
    """Share of the rows to choose the best checkpoint on."""
    test: float = field(0.1, ge=0, lt=1)
    """Share of the rows that the finished model is tested on."""


@section("data", "table")
@dataclass(kw_only=True)
class DataConfig:
    """`data`: where the rows are and how they become batches."""

    path: str | None = field(
        None, not_with={"train": "give one table (data.path), or one file per split (data.train, ...)"}
    )
    """CSV, TSV, JSONL or Parquet file with all rows."""
    train: str | None = None
    """File of the training rows, instead of `data.path`."""
    val: str | None = field(None, only_with="train=FILE")
    """File of the validation rows, beside `data.train`."""
    test: str | None = field(None, only_with="train=FILE")
    """File of the test rows, beside `data.train`."""
    root: str | None = None
    """Folder that image paths are relative to; null: the table's own folder."""
    columns: ColumnsConfig = field(factory=ColumnsConfig)
    """Which column is which."""
    fractions: FractionsConfig = field(factory=FractionsConfig)
    """Shares of the splits where the table does not give them."""
    folds: int | None = field(
        None,
        ge=2,
        not_with={
            "val": "a fold of data.train is held out. Leave one of them out",
            "overfit": "nothing is held out there",
        },
    )
    """Cross-validation: the rows are dealt to so many folds, by id or group and label, and each is held out in a run
    of its own (`-m data.folds=5 data.fold=0,1,2,3,4`); null: no."""
    fold: int | None = field(None, ge=0, only_with="folds=5")
    """The fold that is held out, from 0: as the test split, with `data.fractions` of the others' rows to validate on;
    where the table says what `test` is, as the validation split, and `test` stays."""
    limit: int | None = field(None, ge=1)
    """At most so many rows of each split, drawn by `seed`; null: all."""
    overfit: int | None = field(
        None, ge=2, not_with={"limit": "it is the number of rows itself. Leave one of them out"}
    )
    """So many training rows are all there is: trained, validated and tested on, to see that anything is learned
    (`debug=overfit`); null: no."""
    resize: Literal["squash", "crop", "pad"] = "squash"
    """How an image becomes square: squashed, centre-cropped, or padded with `data.background`."""
    background: str = "white"
    """Colour under transparent pixels and beside padded images, by name or `#rrggbb`."""
    max_pixels: int = field(100_000_000, ge=1)
    """An image whose header says more pixels than this is bad, and is not decoded."""
    picture_memory: float = field(1.0, ge=0)
    """Decoded images are kept in memory for later epochs and for later jobs of a sweep, as many as fit into so many
    GiB; 0: none."""
    max_bad_fraction: float = field(0.01, ge=0, le=1)
    """A run ends with exit code 2 when more than this share of its rows is bad."""
    sampler: Literal["shuffled", "balanced"] = "shuffled"
    """Training rows of an epoch: `shuffled` each once; `balanced` as many, of every class the same number, so that
    rare ones come several times and common ones in turns."""
    augment: AugmentConfig = field(factory=AugmentConfig)
    """How training rows are changed at random."""
    batch_size: int = field(32, ge=1)
    """Rows that one optimizer step sees, over all devices."""
    micro_batch_size: int | None = field(None, ge=1)
    """Rows that one device computes at once; null: all of its share."""
    num_workers: int = field(0, ge=0)
    """Processes that decode images; 0: the main process does."""
