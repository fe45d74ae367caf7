"""How many tokens texts and answers have, and which settings of `task=generation` would hold them all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from mmft.batch.images import ImagesInPrompt
from mmft.data.images.image import image_size
from mmft.data.splitting.splits import Split, different
from mmft.data.spread import spread_evenly
from mmft.data.text import tokenize
from mmft.models.language.generative_model import GenerativeModel
from mmft.models.language.prompt_tokenizer import IMAGE_MARK
from mmft.reports.aligned import aligned
from mmft.tasks.generative import GenerativeTask

Lengths = npt.NDArray[np.int64]
_MEASURED = 200  # rows of a split whose images are measured
_QUANTILES = {"median": 0.5, "90 %": 0.9, "99 %": 0.99, "longest": 1.0}


def lengths_told(model: GenerativeModel, task: GenerativeTask, splits: Mapping[str, Split]) -> str:
    """A table of quantiles by split, and a line for each limit that rows exceed.

    Args:
        model: with its tokenizer.
        task: the run's.
        splits: by name.
    """
    tokenizer, limit, most = model.text_encoder.tokenizer, model.text_encoder.max_length, task.max_answer_tokens
    lines: list[list[str]] = [["split", "tokens of", "rows", *_QUANTILES]]
    prompts, answers = {}, {}
    for name, split in different(splits).items():
        prompts[name] = text_lengths(split, tokenizer)
        answers[name] = answer_lengths(split, task)
        for what, lengths in (("prompt", prompts[name]), ("answer", answers[name])):
            lines.append([name, what, *_spread(lengths)])
        if model.images.cuts:
            lines.append([name, "images", *_spread(image_lengths(split, model.images))])
    told = aligned(lines, right=range(2, len(lines[0])))
    every, replies = (np.concatenate(list(found.values())) for found in (prompts, answers))
    conversations = any(split.table.columns.messages is not None for split in splits.values())
    fate = "bad rows" if conversations else "their texts are cut"
    return "\n".join(
        [
            f"{told}\n{_of_image(model)}, of {model.text_encoder.positions} positions in all.",
            _limit("model.text_encoder.max_length", limit, every, fate),
            _limit("task.max_answer_tokens", most, replies, "bad rows"),
        ]
    )


def _spread(lengths: Lengths) -> list[str]:
    """How many rows there are, and quantiles of their lengths."""
    there = lengths[lengths > 0]
    found = [f"{np.quantile(there, q, method='higher')}" for q in _QUANTILES.values()] if len(there) else []
    return [f"{len(there):,}", *(found or ["-"] * len(_QUANTILES))]


def _of_image(model: GenerativeModel) -> str:
    if not model.images.cuts:
        return f"The image has {model.image_tokens} tokens"
    return f"Images have as many tokens as they need (of at most {_MEASURED} rows a split, by their size)"


def image_lengths(split: Split, images: ImagesInPrompt) -> Lengths:
    """(rows,) tokens of the image of some rows, which its size decides; 0 for one without, or unreadable."""
    known: dict[tuple[int, int], int] = {}
    found = []
    for place in spread_evenly(len(split), _MEASURED).tolist():
        total = 0
        try:
            for source in split.table.images(int(split.rows[place])):
                size = image_size(source)
                if size not in known:
                    blank = np.zeros((size[1], size[0], 3), dtype=np.uint8)
                    known[size] = int(images.counts(images.cut(blank).about).sum())
                total += known[size]
            found.append(total)
        except Exception:  # noqa: BLE001 - the row is bad, which is told elsewhere
            found.append(0)
    return np.array(found, dtype=np.int64)


def text_lengths(split: Split, tokenizer: Any) -> Lengths:
    """(rows,) tokens of each text or prompt, not truncated, with special ones and without the image; 0 for none."""
    tokens = tokenize(split.table.prompts(split.rows), tokenizer, np.iinfo(np.int32).max)
    words = np.concatenate([[0], np.cumsum(tokens.ids != IMAGE_MARK)])
    found: Lengths = words[tokens.offsets[1:]] - words[tokens.offsets[:-1]]
    return found


def answer_lengths(split: Split, task: GenerativeTask) -> Lengths:
    """(rows,) tokens of each answer that may be learned, the longest of several; 0 for a row without one."""
    found = []
    for label in split.table.labels(split.rows):
        try:
            found.append(max(len(task.tokenizer.answer(answer)) for answer in task.learnable(label)))
        except ValueError:
            found.append(0)
    return np.array(found, dtype=np.int64)


def _limit(key: str, limit: int, lengths: Lengths, fate: str) -> str:
    """What a limit does to rows, and what would hold them all."""
    over = int(np.count_nonzero(lengths > limit))
    if not over:
        return f"{key}={limit} holds all."
    return (
        f"{key}={limit} is too short for {over:,} of {np.count_nonzero(lengths):,} rows: {fate}; "
        f"{key}={lengths.max()} holds all."
    )
