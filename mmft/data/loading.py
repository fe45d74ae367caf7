"""From a split to an iterable of batches: tokens, targets, data set, collation, loader.

`make_batches` does all of it in one call; the data module uses the same pieces.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from types import TracebackType
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from mmft.batch import BadRow, Batch
from mmft.batch.images import ImagesInPrompt
from mmft.config.schema.data import DataConfig, names_of
from mmft.data.captions import Captions, CaptionsOf, first_captions
from mmft.data.collate import Collate
from mmft.data.dataset import RowDataset
from mmft.data.drawn_targets import DrawnTargets
from mmft.data.images.image import ImageReader, background_of, drafts
from mmft.data.images.memory import ImageMemory
from mmft.data.images.squares import squaring
from mmft.data.job_cache import JOB_CACHE
from mmft.data.mismatches import mismatched_texts
from mmft.data.order import evaluation_batches
from mmft.data.splitting.splits import Split
from mmft.data.targets import Encode, encode_targets, identities_of
from mmft.data.text import Tokens, empty_text, identity_of, pad_id, tokenize
from mmft.signals import leave_signals_to_parent

S = TypeVar("S")  # a row as the data set has it
B = TypeVar("B")  # a batch of these


def make_dataset(
    split: Split,
    config: DataConfig,
    *,
    tokenizer: Any,
    max_length: int,
    image_size: int,
    encode: Encode | None,
    image_bytes: int = 0,
    evaluated: bool = True,
) -> RowDataset:
    """The split's data set, with texts tokenised and labels encoded.

    Args:
        split: table and rows.
        config: the keys below `data`.
        tokenizer: a tokenizer of transformers.
        max_length: maximum number of tokens per text.
        image_size: side of the images in pixels.
        encode: of the task; None for no targets.
        image_bytes: size of the cache of decoded images; 0 to decode each time.
        evaluated: as in `encode_targets`; false for training rows.
    """
    # Set explicitly, or the tokenizer warns about its threads in every worker forked afterwards.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    written: ImagesInPrompt | None = getattr(tokenizer, "images", None)
    pieces = written if written is not None and written.cuts else None
    how, limits = squaring(config), (background_of(config), config.max_pixels, drafts(config))
    reader = ImageReader(image_size, how.resize, *limits, how.resample, how.crop_pct, pieces)
    captions_of = None if encode is None else encode.captions_of
    tokens, images = _prepared(split, reader, tokenizer, max_length, image_bytes, captions_of)
    captions = None
    if captions_of is not None and not evaluated:
        captions = Captions(split.table.labels(split.rows), captions_of, tokenizer, max_length)
    targets, bad = (None, None) if encode is None else encode_targets(split, encode, evaluated=evaluated)
    identities = identities_of(split) if encode is not None and encode.identities else None
    dataset = RowDataset(split, tokens, images, targets, {**(bad or {}), **unread(split, tokens)}, identities, captions)
    dataset.written = written if pieces is not None or split.table.several_images else None
    if encode is not None:
        dataset.padded_targets = encode.padded
        dataset.references = encode.references_of if evaluated else None
        if encode.drawn is not None and not evaluated:
            dataset.drawn = DrawnTargets(split, encode.drawn, dataset.bad)
    if encode is not None and encode.candidates and targets is not None:
        dataset.others = mismatched_texts(split, targets, set(dataset.bad))
    return dataset


def unread(split: Split, tokens: Tokens) -> dict[int, BadRow]:
    """The rows, by number, whose texts have no tokens for a reason."""
    column = split.table.columns.messages or ", ".join(names_of(split.table.columns.text))
    numbers = ((int(split.rows[at]), reason) for at, reason in tokens.problems.items())
    return {row: split.table.bad_row(row, column, reason) for row, reason in numbers}


def _prepared(
    split: Split,
    reader: ImageReader,
    tokenizer: Any,
    max_length: int,
    image_bytes: int,
    captions_of: CaptionsOf | None,
) -> tuple[Tokens, ImageMemory]:
    """Tokens and image cache; reuses those of the previous job if it had the same table file."""

    def tokens() -> Tokens:
        if captions_of is None:
            return tokenize(split.table.prompts(split.rows), tokenizer, max_length)
        return tokenize(first_captions(split.table.labels(split.rows), captions_of), tokenizer, max_length)

    if split.table.identity is None or not image_bytes:
        return tokens(), ImageMemory(split, reader, image_bytes)
    rows = split.table.identity, blake2b(split.rows.tobytes()).digest()
    key = ("tokens", rows, identity_of(tokenizer), max_length)
    made = JOB_CACHE.get(key, tokens) if captions_of is None else tokens()
    images = JOB_CACHE.get(
        ("images", rows, *vars(reader).values(), image_bytes), lambda: ImageMemory(split, reader, image_bytes)
    )
    images.check_files()
    return made, images


def make_collate(dataset: RowDataset, tokenizer: Any, max_length: int) -> Collate:
    """The collate function for the data set's tokenizer, targets and identities."""
    target, identity = (None if column is None else column[0] for column in (dataset.targets, dataset.identities))
    empty, longest = empty_text(tokenizer, max_length), tokenizer.model_max_length
    padded = dataset.padded_targets
    images = dataset.written
    return Collate(
        pad_id(tokenizer), empty, longest, target, identity, dataset.stored, padded_targets=padded, images=images
    )


def make_loader(
    dataset: Dataset[S],
    batches: Iterable[Sequence[Any]],
    collate: Callable[[list[S]], B],
    *,
    num_workers: int = 0,
    pin: bool = False,
    persistent: bool = False,
) -> DataLoader[B]:
    """A loader of the given batches of positions, identical for any number of workers.

    Args:
        dataset: of one split.
        batches: positions of each batch, or other indices of the data set; a sampler or a list.
        collate: makes a batch of rows.
        num_workers: number of decoding processes; 0 decodes in this one.
        pin: whether to copy batches to page-locked memory, for a GPU.
        persistent: whether to keep workers between passes over the loader. Only for a Trainer's loops, which stop them
            at the end: garbage-collected workers cost 5 s each, because their queues close before they are stopped.
    """
    return DataLoader(
        dataset,  # type: ignore[arg-type]
        batch_sampler=batches,  # type: ignore[arg-type]
        collate_fn=collate,
        num_workers=num_workers,
        persistent_workers=persistent and num_workers > 0,
        pin_memory=pin,
        worker_init_fn=start_worker if num_workers else None,
        # Forking shares the arrays without copies. System libraries only survive it on Linux.
        multiprocessing_context=("fork" if sys.platform == "linux" else "spawn") if num_workers else None,
        # The loader draws a seed for its workers; drawing it from the global generator would change dropout.
        generator=torch.Generator().manual_seed(0),
    )


def make_batches(
    split: Split,
    config: DataConfig,
    *,
    tokenizer: Any,
    max_length: int,
    image_size: int,
    encode: Encode | None = None,
    batch_size: int | None = None,
    pin: bool = False,
) -> DataLoader[Batch]:
    """All batches of a split in order, without Lightning.

    Args:
        split: table and rows.
        config: the keys below `data`.
        tokenizer: a tokenizer of transformers.
        max_length: maximum number of tokens per text.
        image_size: side of the images in pixels.
        encode: of the task; None for no targets.
        batch_size: rows per batch; None for `data.batch_size`.
        pin: whether to copy batches to page-locked memory, for a GPU.
    """
    dataset = make_dataset(
        split, config, tokenizer=tokenizer, max_length=max_length, image_size=image_size, encode=encode
    )
    batches = evaluation_batches(len(split), config.batch_size if batch_size is None else batch_size)
    collate = make_collate(dataset, tokenizer, max_length)
    return make_loader(dataset, batches, collate, num_workers=config.num_workers, pin=pin)


def start_worker(_: int) -> None:
    """Initialises a worker process of a loader."""
    leave_signals_to_parent()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)
    sys.excepthook = _unless_cut_off


def _unless_cut_off(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
    """Exception hook of a worker that suppresses broken connections of the thread that sends batches.

    They occur when the command has ended or another worker was killed. The worker's own errors are reported elsewhere.
    """
    if not issubclass(kind, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, where)
