"""`data`: the table of rows, the roles of its columns, and how rows are split, read and batched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mmft.config.fields import field
from mmft.config.registry import section
from mmft.config.schema.augment import AugmentConfig

_OVERFIT = "it already sets the number of rows. Leave one of them out"


@dataclass(kw_only=True)
class ColumnsConfig:
    """`data.columns`: the roles of the table's columns. Never guessed."""

    image: str | None = None
    """Image column: paths relative to the table's folder (or `data.root`), or encoded bytes; or a template of paths
    with columns in braces, such as `images/{shop}_{id}.jpg`; in conversations also lists of several."""
    text: str | list[str] | None = field(
        None, not_with={"zero_shot.labels": "the run's prompts take the place of the texts. Leave it out"}
    )
    """Text column, or several, which are joined by a space; or a template with columns in braces, such as
    `"data.columns.text='What is {name} made of?'"` (`{{` and `}}` are braces). A row without one of these has no
    text."""
    label: str | list[str] | None = None
    """Label column, required for training and testing, or a template as for texts; several columns for a task with
    several targets."""
    messages: str | None = field(
        None,
        not_with={
            "text": "a conversation holds its questions. Leave one of them out",
            "label": "the last turn of the assistant is the answer. Leave one of them out",
        },
    )
    """Column of conversations, in place of text and label columns, for `task=generation`: lists of turns
    `{"role": "user", "content": "What is it?"}`, or ShareGPT's `{"from": "human", "value": ...}`, or such lists as JSON
    texts. The last turn of the assistant is the answer; earlier ones are learned, too. `<image>` in a turn is where the
    image stands, by default in front of the first turn of a user."""
    id: str | None = None
    """Row id column; null: the row number."""
    split: str | None = field(
        None, not_with={"data.train": "the files are the splits. Leave it out, or type data.path=FILE"}
    )
    """Split column, with the values `train`, `val` and `test`. `training`, `validation`, `valid`, `dev` and `eval` are
    understood, in any case; others with `data.reading.split_names`."""
    weight: str | None = None
    """Column of sample weights, at least 0."""
    group: str | None = None
    """Group column: all rows of a group go to the same split."""

    @property
    def answers(self) -> list[str]:
        """The columns that labels are in, for messages."""
        return names_of(self.label if self.messages is None else self.messages)


def names_of(given: str | list[str] | None) -> list[str]:
    """The column names of a role, as a list."""
    if given is None:
        return []
    return [given] if isinstance(given, str) else list(given)


@dataclass(kw_only=True)
class FractionsConfig:
    """`data.fractions`: split sizes, used when neither a column nor files define the splits. They must sum to 1."""

    train: float = field(0.8, gt=0, le=1)
    """Share of rows in the training split."""
    val: float = field(0.1, ge=0, lt=1)
    """Share of rows in the validation split, on which the best checkpoint is chosen."""
    test: float = field(0.1, ge=0, lt=1)
    """Share of rows in the test split, on which the final model is evaluated."""


@dataclass(kw_only=True)
class ReadingConfig:
    """`data.reading`: how table files are read, where it is not recognised."""

    separator: str | None = None
    """Character between the fields of a CSV file; null: recognised (comma, tab, semicolon or vertical bar)."""
    encoding: str | None = None
    """Encoding of text files, such as `cp1252` or `utf-16`; null: that of the byte-order mark, else UTF-8."""
    quoting: Literal["double", "none"] = "double"
    """`double`: CSV fields may be quoted, with doubled quotation marks inside; `none`: quotation marks are text."""
    decimal: Literal[".", ","] = "."
    """Decimal mark of numbers written as text, in labels and weights."""
    thousands: Literal["none", ",", ".", "'", "_", " "] = "none"
    """Mark between groups of three digits in these numbers."""
    split_names: dict[str, Literal["train", "val", "test"]] | None = None
    """Names in the split column and the split that each means, such as `{holdout:test}`."""
    explode: bool = False
    """Make a list of texts (several captions of an image) one row per text, instead of a bad row."""


@dataclass(kw_only=True)
class SubsetConfig:
    """`data.subset`: a small part of the training rows that stands for all of them; validation and test rows stay.

    `data.subset=k_center data.subset.fraction=0.1`. Rows are compared by what both encoders make of them before
    training: pooled features, centred and of unit length per modality, joined; zeros for a modality that a row lacks.
    Bad rows are never chosen.
    """

    method: Literal["random", "k_center", "herding", "coreset"] | None = None
    """`random`: drawn by `seed`; `k_center`: each time the row that is farthest from those chosen (greedy k-center,
    Sener and Savarese 2018, arXiv 1708.00489); `herding`: each time the row that brings the mean of those chosen
    closest to the mean of all (Welling 2009); `coreset`: each time the row that most reduces the mean squared distance
    of all rows to the nearest one chosen (facility location or k-medoids, greedily, arXiv 1409.7938); null: random if
    their number is given."""
    rows: int | None = field(None, ge=1, not_with={"fraction": "type one of them", "data.overfit": _OVERFIT})
    """How many rows."""
    fraction: float | None = field(None, gt=0, le=1, not_with={"data.overfit": _OVERFIT})
    """Share of the usable training rows; 1: all."""
    by_label: bool | None = None
    """Every class gets its share of the rows, and at least one; null: true if the task has classes."""


@section("data", "table")
@dataclass(kw_only=True)
class DataConfig:
    """`data`: where the rows are and how they are batched."""

    path: str | list[str] | None = field(
        None, not_with={"train": "give either one table (data.path) or one file per split (data.train, ...)"}
    )
    """CSV, TSV, JSON, JSONL, Parquet or Arrow file with all rows; or a folder, a pattern such as `rows-*.parquet`, or a
    list of files. Files named after splits, such as `train-00000.parquet`, define the splits."""
    train: str | list[str] | None = None
    """File, files or pattern with the training rows, instead of `data.path`."""
    val: str | list[str] | None = field(None, only_with="train=FILE")
    """The same with the validation rows, alongside `data.train`."""
    test: str | list[str] | dict[str, str | list[str]] | None = field(None, only_with="train=FILE")
    """The same with the test rows, alongside `data.train`; or several tables by name, each tested on its own, such as
    `{photo:a.csv,sketch:b.csv}` (the same as `data.test.photo=a.csv` and `data.test.sketch=b.csv`)."""
    root: str | None = None
    """Folder that image paths are relative to; null: the table's own folder."""
    columns: ColumnsConfig = field(factory=ColumnsConfig)
    """Roles of the columns."""
    reading: ReadingConfig = field(factory=ReadingConfig)
    """How the files are read."""
    fractions: FractionsConfig = field(factory=FractionsConfig)
    """Split sizes, if the table does not define the splits."""
    folds: int | None = field(
        None,
        ge=2,
        not_with={
            "val": "a fold of data.train is held out instead. Leave one of them out",
            "overfit": "it holds out no rows. Leave one of them out",
        },
    )
    """Number of cross-validation folds, dealt by id or group and label; each is held out in its own run
    (`-m data.folds=5 data.fold=0,1,2,3,4`); null: no cross-validation."""
    fold: int | None = field(None, ge=0, only_with="folds=5")
    """The fold to hold out, from 0. It becomes the test split, and validation rows come from the other folds by
    `data.fractions`. If the table defines a `test` split, that is kept and the fold becomes the validation split."""
    limit: int | None = field(None, ge=1)
    """Largest number of rows per split, sampled with `seed`, each label in proportion and at least once if possible;
    null: all."""
    overfit: int | None = field(None, ge=2, not_with={"limit": _OVERFIT})
    """Train, validate and test on this many training rows, to check that the model can learn at all
    (`debug=overfit`); null: off."""
    subset: SubsetConfig = field(factory=SubsetConfig)
    """A representative part of the training rows."""
    drawing: Literal["by_row", "by_image_and_label"] = "by_image_and_label"
    """How random splits, folds and limits are drawn. `by_image_and_label` keeps rows that share an image in one split,
    and limits by label; `by_row` draws as earlier versions did, whose runs keep it."""
    resize: Literal["squash", "crop", "pad"] | None = None
    """How images are made square: squashed, centre-cropped, or padded with `data.background`; null: as `model.pair`
    was pretrained, or squashed."""
    resample: Literal["bicubic", "bilinear"] | None = None
    """How pixels are interpolated when images are scaled, with antialiasing; null: as the image processor of
    `model.pair` or `model.whole` does, or bicubic."""
    crop_pct: float | None = field(
        None, gt=0, le=1, not_with={"resize==pad": "bars are added so that nothing is cropped. Leave one of them out"}
    )
    """Side of the square that is cut from the centre of an image, as a share of the side that the image is scaled to:
    224 / 256 scales to 256 pixels and keeps 224; null: as the image processor of `model.pair` does, or 1."""
    background: str | None = None
    """Colour behind transparent pixels and of padding, by name or `#rrggbb`; null: that of a `model.pair` whose own
    preprocessing pads, else white."""
    jpeg_draft: bool | None = None
    """Whether JPEGs of at least twice the needed size are decoded at 1/2, 1/4 or 1/8 of theirs, as Pillow's draft mode
    does: faster, but other pixels by a little; null: yes, except with `model.pair` and `model.whole`, whose own
    processors do not."""
    max_pixels: int = field(100_000_000, ge=1)
    """An image with more pixels than this, according to its header, is bad and is not decoded."""
    picture_memory: float = field(1.0, ge=0)
    """GiB of memory in which decoded images are cached for later epochs and later jobs of a sweep; 0: no cache."""
    max_bad_fraction: float = field(0.01, ge=0, le=1)
    """The run ends with exit code 2 if more than this share of its rows is bad."""
    sampler: Literal["shuffled", "balanced"] = "shuffled"
    """Training rows of an epoch: `shuffled`, each row once; `balanced`, as many rows but equally many of every class,
    so rows of rare classes repeat and rows of common classes take turns across epochs."""
    augment: AugmentConfig = field(factory=AugmentConfig)
    """Random augmentation of training rows."""
    batch_size: int = field(32, ge=1)
    """Rows per batch, over all devices; in training, per optimizer step."""
    micro_batch_size: int | None = field(None, ge=1)
    """Rows that one device processes at once; null: its whole share of the batch."""
    micro_batch_tokens: int | None = field(
        None, ge=1, not_with={"micro_batch_size": "rows or tokens at once: leave one of them out"}
    )
    """Tokens that one device processes at once, of images, prompts and answers together, for a task that generates:
    rows times the longest of them, or with `task.packing` their sum. A longer row is processed alone. Like
    `micro_batch_size`, it changes nothing but memory and time (and which dropout a row gets)."""
    num_workers: int = field(0, ge=0)
    """Worker processes that decode images; 0: the main process decodes them."""
