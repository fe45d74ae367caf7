"""`mmft explain run=RUN rows=[3,17] out=FOLDER`: what in a row's picture and words speaks for its prediction.

By integrated gradients (see `mmft.models.attribution`) from a row that shows nothing: a picture of the colour
`data.background`, a text of mask tokens. What is explained is the task's to say (`Task.subjects`): a label's logit, a
target, how alike picture and text are; each of several tasks or targets by itself.

Legend: H W picture height and width, K cells of a map's side, L tokens.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import ImageColor
from torch import Tensor

from mmft.batch import Batch
from mmft.config.compose import Composed
from mmft.config.schema import ExplainConfig
from mmft.config.schema.data import DataConfig
from mmft.config.wording import did_you_mean
from mmft.data.splits import Split
from mmft.data.table import Table
from mmft.errors import ExitCode, UserError
from mmft.explaining.page import draw
from mmft.explaining.words import Word, words_of
from mmft.files import written_aside
from mmft.inference import full_precision
from mmft.loaded_model import LoadedModel, model_and_rows
from mmft.models.attribution import Attribution, Baseline, integrated_gradients
from mmft.shipped import located
from mmft.tasks.base import Subject
from mmft.tasks.labels import in_files, shown
from mmft.tasks.several import Several

log = logging.getLogger(__name__)
CELLS = 12
"""K: a single pixel's gradient is noise; the sum of a part's is not."""
_WORDS = {"image": "picture", "text": "text"}
_MUCH = 0.05  # of what is explained; a sum that misses more is told


class Explained(NamedTuple):
    """One row, or one of the subjects of a row."""

    answer: dict[str, Any]
    subject: Subject
    found: Attribution
    cells: Tensor | None  # (K, K)
    pixels: Tensor | None  # (3, H, W) uint8
    words: list[Word]


def explain(composed: Composed) -> int:
    """Explains the chosen rows; prints the path of each row's picture.

    Returns:
        The exit code. A row that cannot be read is told and has no picture.

    Raises:
        UserError: no such run, an unusable table, no such row or label.
    """
    config: ExplainConfig = composed.config
    model, data, split = model_and_rows(config)
    _check_label(model, config.label)
    split = _chosen(split, config)
    folder = located(config.out)
    folder.mkdir(parents=True, exist_ok=True)
    for row in explained(model, split, data, config.label, config.points):
        print(_written(folder, row), flush=True)
    return ExitCode.DONE


def _check_label(model: LoadedModel, label: str | None) -> None:
    task = model.saved.task
    names = list(dict.fromkeys([*task.output_names, *(task.parts if isinstance(task, Several) else ())]))
    if label is not None and label not in names:
        raise UserError(f"label={label}: there is none.{did_you_mean(label, names)} There are: {shown(names, 50)}")


def _chosen(split: Split, config: ExplainConfig) -> Split:
    table: Table = split.table
    if config.rows is not None:
        gone = [row for row in config.rows if row >= len(table)]
        if gone:
            raise UserError(f"rows={gone[0]}: the table has rows 0 to {len(table) - 1}.")
        return Split(table, np.unique(np.array(config.rows)))
    ids, asked = table.ids(), config.ids or []
    missing = [name for name in asked if name not in ids]
    if missing:
        raise UserError(f"ids: no row of {table.where} has the id {missing[0]!r}.{did_you_mean(missing[0], ids)}")
    return Split(table, np.array([row for row, name in enumerate(ids) if name in asked]))


def explained(
    model: LoadedModel, split: Split, config: DataConfig, label: str | None, points: int
) -> Iterator[Explained]:
    """Each row of `split` that can be read, once for each of its subjects; of the others it is told why not.

    Args:
        model: finished.
        split: the rows.
        config: `data`, as the run's; points are computed `batch_size` at once.
        label: what is explained, one of the task's outputs; None: each row's prediction.
        points: as in `integrated_gradients`.
    """
    answers = {answer["row"]: answer for answer in model.answers(split, config)}
    dtype = torch.float64 if full_precision(model.saved.config.trainer.precision) == "64-true" else torch.float32
    model.model.to(device=model.device, dtype=dtype).eval()
    for batch in model.batches(split, replace(config, batch_size=1)):
        for bad in batch.bad:
            log.warning("row %d (id %s) cannot be read: %s", bad.row, bad.id, bad.why)
        if len(batch):
            answer, given = answers[int(batch.row)], batch.to(model.device)
            if answer["error"] is not None:
                log.warning("row %d (id %s) has no prediction: %s", answer["row"], answer["id"], answer["error"])
                continue
            with torch.no_grad():
                subjects = model.saved.task.subjects(model.model(given), label)
            baseline = Baseline(_colour(config.background), _nothing_said(model, batch))
            for subject in subjects:
                found = integrated_gradients(
                    model.model, given, subject.value, baseline, points, at_once=config.batch_size
                )
                _check(found, int(batch.row), points)
                yield _explained(model, split.table, batch, answer, subject, found)


def _colour(background: str) -> tuple[int, int, int]:
    red, green, blue = ImageColor.getrgb(background)[:3]
    return red, green, blue


def _nothing_said(model: LoadedModel, batch: Batch) -> Tensor:
    """(L,) the row's tokens with mask tokens (or padding, where the tokenizer has no mask) for all but special ones."""
    if batch.input_ids is None:
        return torch.zeros(0, dtype=torch.int64)
    tokenizer, ids = model.model.text_encoder.tokenizer, batch.input_ids[0]
    known = [tokenizer.mask_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id, 0]
    fill = next(number for number in known if number is not None)
    said = {tokenizer.unk_token_id, tokenizer.mask_token_id}  # these stand for words
    special = torch.isin(ids, torch.tensor([number for number in tokenizer.all_special_ids if number not in said]))
    return torch.where(special, ids, torch.full_like(ids, fill))


def _check(found: Attribution, row: int, points: int) -> None:
    asked = abs(found.value - found.baseline)
    if abs(found.missed) > _MUCH * max(asked, 1e-3):
        log.warning(
            "row %d: the weights add up to %.3f of %.3f; type points=%d to come nearer",
            *(row, found.value - found.baseline - found.missed, found.value - found.baseline, 4 * points),
        )


def _explained(
    model: LoadedModel, table: Table, batch: Batch, answer: dict[str, Any], subject: Subject, found: Attribution
) -> Explained:
    row, encoder = int(batch.row), model.model.text_encoder
    text = table.text(row)
    weights = [] if found.text is None else found.text.tolist()
    words = [] if text is None else words_of(text, encoder.tokenizer, encoder.max_length, weights)
    cells = None if found.image is None else cell_sums(found.image, CELLS)
    pixels = None if found.image is None or batch.pixel_values is None else batch.pixel_values[0]
    return Explained(answer, subject, found, cells, pixels, words)


def cell_sums(values: Tensor, cells: int) -> Tensor:
    """(H, W) -> (K, K) sums of its parts, which are as even as they can be; the sum of all stays the same."""
    for dimension in (0, 1):
        size = values.shape[dimension]
        part = torch.arange(size) * cells // size
        shape = [cells if d == dimension else length for d, length in enumerate(values.shape)]
        values = values.new_zeros(shape).index_add(dimension, part, values)
    return values


def _written(folder: Path, row: Explained) -> Path:
    """Writes a row's picture and its numbers; gives the picture's path."""
    found, answer = row.found, row.answer
    sums = {"image": _sum(found.image), "text": _sum(found.text)}
    name, part = row.subject.name, row.subject.part
    path = folder / f"row{answer['row']}{part and '_' + in_files(part)}.png"
    subject = (name or "a higher number") if part in ("", name) else f"{part}: {name}"
    score = "" if answer["score"] is None else f" (score {answer['score']:.3f})"
    told = "   ".join(f"{word} {sums[name]:+.2f}" for name, word in _WORDS.items() if sums[name] is not None)
    lines = [
        f"row {answer['row']}   id {answer['id']}",
        f"prediction {answer['prediction']}{score}",
        f"speaks for {subject} (red) or against it (blue):   {told}",
    ]
    pixels = None if row.pixels is None else row.pixels.permute(1, 2, 0).numpy()
    page = draw(lines, pixels, None if row.cells is None else row.cells.numpy(), row.words)
    numbers = {
        **answer,
        "explained": name,
        "of": part or None,
        "value": found.value,
        "baseline": found.baseline,
        **sums,
        "missed": found.missed,
        "words": [word._asdict() for word in row.words],
        "cells": None if row.cells is None else row.cells.tolist(),
    }
    with written_aside(path) as new:
        page.save(new, format="PNG")
    with written_aside(path.with_suffix(".json")) as new:
        new.write_text(json.dumps(numbers, indent=2, ensure_ascii=False), encoding="utf-8")
    return path


def _sum(part: Tensor | None) -> float | None:
    return None if part is None else float(part.sum())
