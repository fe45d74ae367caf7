"""Rows on which an exported graph is compared with the run's own model, and by how much they may differ.

Legend: B batch, R rows.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from mmft.batch import Batch, Sample
from mmft.config.paths import rebase
from mmft.config.schema.root import TrainConfig
from mmft.data.collate import Collate
from mmft.data.loading import make_batches
from mmft.data.splitting.names import splits_to_show
from mmft.data.splitting.splits import Split, load_splits
from mmft.data.text import empty_text, pad_id, tokenize
from mmft.errors import UserError
from mmft.models.inference import full_precision, outputs_of
from mmft.models.text_encoder import TextEncoder
from mmft.run.export.graph import Graph
from mmft.run.saved_model import SavedModel
from mmft.tasks.graph_outputs import graph_outputs

log = logging.getLogger(__name__)
CLOSE = 1e-4
"""The largest difference allowed: of probabilities and embeddings as such, of regression in deviations of a target."""
_TEST_ROWS = 64
_BATCHES = (1, 3, 16)  # rows of the batches that are made

Compute = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
"""An exported graph: inputs by name -> outputs by name."""


class Expected(NamedTuple):
    """A batch, and what the model makes of it: the outputs of all graphs by name, each (B, ...)."""

    batch: Batch
    outputs: Mapping[str, Tensor]


def compared_rows(saved: SavedModel) -> list[Batch]:
    """Batches with images and texts: made ones, with texts of several lengths, and up to 64 of the run's test rows.

    Without its test rows, which is told, the made ones must do.
    """
    return [*_made(saved), *_of_test(saved)]


def expected_of(saved: SavedModel, batches: Iterable[Batch]) -> list[Expected]:
    """What the model makes of the batches, in the precision of `predict`."""
    cpu, precision = torch.device("cpu"), full_precision(saved.config.trainer.precision)
    found = []
    for batch, outputs in outputs_of(saved.model, batches, cpu, precision):
        assert outputs is not None
        with torch.inference_mode():
            found.append(Expected(batch, {one.name: one.compute(outputs) for one in graph_outputs(saved.task)}))
    return found


def largest_difference(graph: Graph, compute: Compute, expected: Iterable[Expected]) -> float:
    """How far the graph's outputs of real numbers are from the model's, at most."""
    largest = 0.0
    for batch, outputs in expected:
        found = compute(graph.inputs_of(batch))
        for one in graph.outputs:
            own, theirs = outputs[one.name], found[one.name]
            if own.is_floating_point():
                difference = (theirs.double() - own.double()).abs() / torch.tensor(one.scales, dtype=torch.float64)
                largest = max(largest, float(difference.nan_to_num(nan=torch.inf).max()))
    return largest


def check_close(graph: Graph, compute: Compute, expected: Iterable[Expected], written: str) -> float:
    """`largest_difference` of a graph in float32.

    Raises:
        UserError: it is larger than `CLOSE`.
    """
    difference = largest_difference(graph, compute, expected)
    if difference > CLOSE:
        raise UserError(
            f"format={written}: the exported {graph.name} graph computes other values than the run's model (the "
            f"largest difference is {difference:.1e}, more than {CLOSE:.0e}), so nothing was written. Type format=hf "
            "for the encoders alone"
        )
    return difference


def _made(saved: SavedModel) -> Iterator[Batch]:
    """Random images, and texts of 4 tokens or so up to the longest; some rows lack either if the task allows it."""
    text, side = saved.model.text_encoder, saved.model.image_encoder.image_size
    random = torch.Generator().manual_seed(0)
    collate = _collate(text)
    may_lack = not saved.task.facts.needs_both
    for rows in _BATCHES:
        words = [" ".join(str(number) for number in range(1 + row * text.max_length // rows)) for row in range(rows)]
        tokens = tokenize(words, text.tokenizer, text.max_length)
        samples = []
        for row in range(rows):
            pixels = torch.randint(0, 256, (3, side, side), generator=random, dtype=torch.uint8)
            ids = torch.from_numpy(tokens.of(row).copy()).long()
            no_image, no_text = may_lack and row % 4 == 1, may_lack and row % 4 == 2
            samples.append(Sample(row, None if no_image else pixels, None if no_text else ids))
        yield collate(samples)


def _of_test(saved: SavedModel) -> Iterator[Batch]:
    """The first of the run's test rows, or of those it was validated on."""
    config: TrainConfig = rebase(saved.config, saved.working_directory)
    try:
        splits = load_splits(config.data, config.seed)
    except UserError as error:
        log.warning("the graph is compared on made rows alone: the run's own cannot be read (%s)", error.messages[0])
        return
    names = splits_to_show(splits)
    if not names:
        log.warning("the graph is compared on made rows alone: the run has neither test nor val rows")
        return
    first = splits[names[0]]
    split = Split(first.table, first.rows[:_TEST_ROWS])
    text, side = saved.model.text_encoder, saved.model.image_encoder.image_size
    own = replace(config.data, num_workers=0, batch_size=_TEST_ROWS)
    for batch in make_batches(split, own, tokenizer=text.tokenizer, max_length=text.max_length, image_size=side):
        if saved.task.facts.needs_both:  # of other rows nothing is predicted
            batch = batch.take((batch.image_present & batch.text_present).nonzero().squeeze(1))
        if len(batch):
            yield _with_both(batch, saved)


def _with_both(batch: Batch, saved: SavedModel) -> Batch:
    """The batch with zeros for images, and the empty text, if no row has one: a graph takes them all the same."""
    rows, side, text = len(batch), saved.model.image_encoder.image_size, saved.model.text_encoder
    if batch.pixel_values is None:
        batch = replace(batch, pixel_values=torch.zeros(rows, 3, side, side, dtype=torch.uint8))
    if batch.input_ids is None:
        ids = torch.from_numpy(empty_text(text.tokenizer, text.max_length)).long().expand(rows, -1)
        batch = replace(batch, input_ids=ids, attention_mask=torch.ones_like(ids, dtype=torch.bool))
    return batch


def _collate(text: TextEncoder) -> Collate:
    empty = empty_text(text.tokenizer, text.max_length)
    return Collate(pad_id(text.tokenizer), empty, text.tokenizer.model_max_length)


def same_predictions(graph: Graph, compute: Compute, expected: Sequence[Expected]) -> float | None:
    """The share of the graph's outputs of whole numbers that are the model's; None if there are none."""
    names = [one.name for one in graph.outputs if not expected[0].outputs[one.name].is_floating_point()]
    same: list[Tensor] = []
    for batch, outputs in expected:
        found = compute(graph.inputs_of(batch))
        same += [(found[name] == outputs[name]).flatten() for name in names]
    return float(torch.cat(same).double().mean()) if same else None
