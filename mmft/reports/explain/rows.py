"""Attributes a row's prediction to its image and words.

By integrated gradients (see `mmft.models.attribution`) from an empty baseline: an image of the colour
`data.background`, a text of mask tokens. The task chooses what is explained (`Task.subjects`): a label's logit, a
target, the similarity of image and text; several tasks or targets each separately. Of a task that generates it is the
log-probability of an answer: of the row's label, or the generated text.

Legend: H W image height and width, K cells per side of a map, L tokens.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image, ImageColor
from torch import Tensor

from mmft.batch import Batch
from mmft.config.wording import did_you_mean
from mmft.data.table import Table
from mmft.errors import UserError
from mmft.models.attribution import Attribution, Baseline, integrated_gradients
from mmft.models.language.generative_model import GenerativeModel
from mmft.models.language.prompt_tokenizer import PromptTokenizer
from mmft.models.text_encoder import TextEncoder
from mmft.models.vision_language_model import VisionLanguageModel
from mmft.reports.explain.images import Pixels, blank_pieces, cells_of_images, prompt_of, seen_images
from mmft.reports.explain.numbers import readable, signed
from mmft.reports.explain.page import Heat, draw
from mmft.reports.explain.words import Word, own_tokens, stands_apart, words_of, words_of_prompt
from mmft.tasks.base import Task
from mmft.tasks.generative import GenerativeTask
from mmft.tasks.labels import shown

log = logging.getLogger(__name__)
CELLS = 12
"""K: a single pixel's gradient is noise; the sum over a cell is not."""
_WORDS = {"image": "image", "text": "text"}
MUCH = 0.05
"""Fraction of what is explained; a larger error is reported."""


@dataclass(frozen=True, kw_only=True)
class Explained:
    """One row, or one subject of a row.

    Attributes:
        answer: as returned by `predict`.
        name: what is explained: a label or target; "" if there is only one number.
        of: the task or target that it belongs to, if there are several; else "".
        found: the attribution of every pixel and token.
        images: the row's, with what their parts contribute; empty without an image.
        words: the text's words, with their attributions.
    """

    answer: dict[str, Any]
    name: str
    of: str
    found: Attribution
    images: list[Heat]
    words: list[Word]

    @property
    def sums(self) -> dict[str, float | None]:
        """Attributions of `image` and `text`; None for a modality that the row lacks."""
        parts = {"image": self.found.image, "text": self.found.text}
        return {name: None if part is None else float(part.sum()) for name, part in parts.items()}

    def page(self) -> Image.Image:
        """Draws the row: image parts and words that support the subject in red, those that oppose it in blue."""
        answer, sums = self.answer, self.sums
        subject = (self.name or "a higher number") if self.of in ("", self.name) else f"{self.of}: {self.name}"
        score = "" if answer["score"] is None else f" (score {answer['score']:.3f})"
        known = {word: value for name, word in _WORDS.items() if (value := sums[name]) is not None}
        largest = _largest(self.found)
        told = "   ".join(f"{word} {signed(value, largest)}" for word, value in known.items())
        lines = [
            f"row {answer['row']}   id {answer['id']}",
            f"prediction {readable(answer['prediction'])}{score}",
            f"supports {subject} (red) or opposes it (blue):   {told}",
        ]
        if _misses_much(self.found):
            asked = self.found.value - self.found.baseline
            missed = f"{signed(self.found.missed, largest)} of {signed(asked, largest)}"
            lines.append(f"{missed} is not attributed; more points reduce this")
        return draw(lines, self.images, self.words)

    def numbers(self) -> dict[str, Any]:
        """Everything on the page, as plain values for JSON: `cells` of the first image, `more_cells` of each other."""
        cells = [one.cells.tolist() for one in self.images]
        return {
            **self.answer,
            "explained": self.name,
            "of": self.of or None,
            "value": self.found.value,
            "baseline": self.found.baseline,
            **self.sums,
            "missed": self.found.missed,
            "words": [word._asdict() for word in self.words],
            "cells": cells[0] if cells else None,
            "more_cells": cells[1:],
        }


def check_label(task: Task, label: str | None) -> None:
    """Raises UserError if the task has nothing of this name to explain."""
    if task.facts.generates:
        return  # any answer can be explained
    names = list(dict.fromkeys([*task.output_names, *filter(None, task.parts)]))
    if label is not None and label not in names:
        raise UserError(f"label={label}: no such label.{did_you_mean(label, names)} There are: {shown(names, 50)}")


@dataclass(frozen=True, kw_only=True)
class Explainer:
    """Explains a finished model's rows.

    Attributes:
        model: finished, on its device, in the precision of `predict`, in eval mode.
        task: its task.
        background: colour of the baseline image, as `data.background`.
        label: what is explained, one of the task's outputs; None for each row's prediction.
        points: as in `integrated_gradients`.
        at_once: points computed at once.
        read: an image's path or bytes -> (H, W, 3) the whole image.
    """

    model: VisionLanguageModel
    task: Task
    background: str
    read: Callable[[str | bytes], Pixels]
    label: str | None
    points: int
    at_once: int

    def explained(
        self, table: Table, batches: Iterable[Batch], answers: Mapping[int, dict[str, Any]]
    ) -> Iterator[Explained]:
        """Yields each readable row once per subject; warns about the others.

        Args:
            table: the table of the rows.
            batches: of one row each.
            answers: the rows' predictions by row number, from `predict`.
        """
        for batch in batches:
            for bad in batch.bad:
                log.warning("row %d (id %s) cannot be read: %s", bad.row, bad.id, bad.why)
            if len(batch):
                yield from self._row(table, batch, answers[int(batch.row)])

    def _row(self, table: Table, batch: Batch, answer: dict[str, Any]) -> Iterator[Explained]:
        if answer["error"] is not None:
            log.warning("row %d (id %s) has no prediction: %s", answer["row"], answer["id"], answer["error"])
            return
        given = batch.to(next(self.model.parameters()).device)
        with torch.no_grad():
            outputs = self.model(given)
            if isinstance(self.task, GenerativeTask):
                label = table.labels(batch.row.numpy())[0] if self.label is None else self.label
                given, outputs = self.task.to_explain(given, outputs, label)
            subjects = self.task.subjects(outputs, self.label)
        kind = None
        if batch.images is not None:
            assert isinstance(self.model, GenerativeModel)  # the others read no pieces
            kind = self.model.images
        images = seen_images(batch, kind, table.images(int(batch.row)), self.read)
        prompt = {} if batch.input_ids is None else prompt_of(batch, kind)
        colour = _colour(self.background)
        blank = None if kind is None or not images else blank_pieces(images, colour, kind).values
        baseline = Baseline(colour, _nothing_said(self.model.text_encoder.tokenizer, batch, prompt), blank)
        for subject in subjects:
            found = integrated_gradients(self.model, given, subject.value, baseline, self.points, at_once=self.at_once)
            yield Explained(
                answer=answer,
                name=subject.name,
                of=subject.part,
                found=found,
                images=list(map(Heat, images, cells_of_images(found.image, images, kind, CELLS))),
                words=_words(self.model.text_encoder, table, batch, prompt, found.text),
            )


def _colour(background: str) -> tuple[int, int, int]:
    red, green, blue = ImageColor.getrgb(background)[:3]
    return red, green, blue


def _nothing_said(tokenizer: Any, batch: Batch, prompt: dict[int, int]) -> Tensor:
    """(L,) the row's tokens, all but special ones replaced by mask tokens (by padding if the tokenizer has no mask).

    Of a prompt the row's own words are replaced.
    """
    if batch.input_ids is None:
        return torch.zeros(0, dtype=torch.int64)
    ids = batch.input_ids[0]
    known = [tokenizer.mask_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id, 0]
    fill = next(number for number in known if number is not None)
    said = {tokenizer.unk_token_id, tokenizer.mask_token_id}  # special tokens that stand for words
    kept = torch.isin(ids, torch.tensor([number for number in tokenizer.all_special_ids if number not in said]))
    if isinstance(tokenizer, PromptTokenizer):
        kept = torch.ones_like(kept)
        for at in list(prompt)[own_tokens(list(prompt.values()), tokenizer.empty)]:
            kept[at] = stands_apart(prompt[at], tokenizer)
    return torch.where(kept, ids, torch.full_like(ids, fill))


def with_warnings(rows: Iterable[Explained], points: int) -> Iterator[Explained]:
    """The rows; of one whose weights are far from adding up, a warning."""
    for row in rows:
        found = row.found
        if _misses_much(found):
            log.warning(
                "row %d: the weights add up to %.3f of %.3f; mmft explain points=%d gives a closer sum",
                row.answer["row"],
                *(found.value - found.baseline - found.missed, found.value - found.baseline, 4 * points),
            )
        yield row


def _misses_much(found: Attribution) -> bool:
    return abs(found.missed) > MUCH * _largest(found)


def _largest(found: Attribution) -> float:
    """The largest of what is explained and each modality's sum, since sums may cancel out."""
    parts = (float(part.sum()) for part in (found.image, found.text) if part is not None)
    return max(map(abs, (found.value - found.baseline, *parts)))


def _words(
    encoder: TextEncoder, table: Table, batch: Batch, prompt: dict[int, int], contributions: Tensor | None
) -> list[Word]:
    (own,) = table.prompts(batch.row.cpu().numpy())
    text = "" if isinstance(own, tuple) else own
    weights = [] if contributions is None else contributions.tolist()
    if text is None:
        return []
    if isinstance(encoder.tokenizer, PromptTokenizer):
        of_prompt = [weights[at] for at in prompt] if weights else []
        return words_of_prompt(text, encoder.tokenizer, list(prompt.values()), of_prompt)
    return words_of(text, encoder.tokenizer, encoder.max_length, weights)
