"""Builds and solves what `tune=probe` puts in the place of training.

Legend: R usable rows, F width of both encoders' pooled features side by side.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from mmft.build.callbacks import monitor_of
from mmft.build.frozen import EncoderFeatures
from mmft.config.rules.probe import unused
from mmft.config.schema.model import MODALITY
from mmft.config.schema.root import TrainConfig
from mmft.config.wording import listed
from mmft.data.bad_rows import BadRows
from mmft.data.datamodule import VisionLanguageData
from mmft.data.dataset import RowDataset
from mmft.data.splitting.folds import folds_of
from mmft.data.splitting.names import splits_to_test
from mmft.data.table import Table
from mmft.errors import TrainingError, UserError
from mmft.files import write_records
from mmft.models.nearest_neighbours import NearestNeighbours
from mmft.models.vision_language_model import VisionLanguageModel
from mmft.run_folder import RunFolder
from mmft.tasks.base import Task
from mmft.tasks.side_by_side import Heads
from mmft.training.linear_head import Labelled
from mmft.training.probing import PROBES, Contradicted, Probe, choose, contradicted

log = logging.getLogger(__name__)
_FOLDS = 5


def head_maker(config: TrainConfig, task: Task) -> Callable[[int], nn.Module]:
    """What makes the head, given the width of its features."""
    return partial(_neighbours, task) if config.tune.probe == "knn" else task.make_head


def _neighbours(task: Task, width: int) -> nn.Module:
    """Nearest neighbours among no rows yet, for each of several tasks."""
    made = [NearestNeighbours(width, part.width, part.outputs_of_votes) for part in task.parts.values()]
    return Heads(made) if len(made) > 1 else made[0]


class _Rows(NamedTuple):
    """The usable rows of a split."""

    features: Tensor  # (R, F) float64; nan where a row lacks the modality
    target: Tensor  # (R, ...)
    weight: Tensor  # (R,)
    row: Tensor  # (R,) int64 row numbers


def solve_probe(
    config: TrainConfig,
    folder: RunFolder,
    model: VisionLanguageModel,
    task: Task,
    data: VisionLanguageData,
    bad: BadRows,
) -> dict[str, Any]:
    """Solves the head of `model` on the training rows, with the strength that is best on the validation rows.

    A row's missing image or text counts as the mean of the features, which the stand-ins become.

    Args:
        config: with hardware chosen.
        folder: of the run, where contradicted labels are listed.
        model: with frozen encoders; its head and stand-ins are set, and it reads from the store from then on.
        task: fitted.
        data: of the run.
        bad: gets the rows that cannot be read.

    Returns:
        Values for the summary.

    Raises:
        UserError: too many rows are bad, or the task's head is not linear.
        TrainingError: features or metrics are not finite.
    """
    begin = time.perf_counter()
    heads = model.head.heads if isinstance(model.head, Heads) else [model.head]
    for part, head in zip(task.parts.values(), heads, strict=True):
        _check_head(part, head)
    if ignored := unused(config):
        log.info("tune=probe is solved at once: %s changes nothing", listed(ignored))
    passes = {"train": 2, "val": 2} | dict.fromkeys(splits_to_test(data.rows), 2)
    features = EncoderFeatures(config, model)
    features.read_by_model({name: (data.datasets[name], n) for name, n in passes.items() if name in data.rows})
    train = _rows(features, data.datasets["train"], bad)
    val = _rows(features, data.datasets["val"], bad) if "val" in data.rows else None
    bad.check()
    seconds = time.perf_counter() - begin
    mean = train.features.nanmean(0).nan_to_num()  # (F,)
    _set_stand_ins(model, mean)
    table, contradictions = data.datasets["train"].split.table, list[dict[str, Any]]()
    folds = folds_of(table, train.row.numpy(), _FOLDS, config.seed, config.data.drawing)
    found: dict[str, dict[str, Any]] = {}
    for (name, part), head in zip(task.parts.items(), heads, strict=True):
        metric = _metric(monitor_of(config.checkpoint, task)[0], name, part)
        there, known = _of_part(task, name, train, mean)
        asked = None if val is None else _of_part(task, name, val, mean)[1]
        probe = PROBES[str(config.tune.probe)](part, known, model.image_encoder.widths.pooled)
        found[name], wrong = _solve(probe, metric, asked, folds[there.numpy()], head, name)
        contradictions += [_record(name, part, table, int(train.row[there][one.at]), one) for one in wrong]
    if contradictions:
        write_records(folder.contradicted, contradictions)
    taken = time.perf_counter() - begin
    told = {"kind": config.tune.probe, "feature_seconds": seconds, "solve_seconds": taken - seconds}
    trained = {"optimizer_steps": 0, "epochs": 0, "train_seconds": taken, "fit_seconds": taken}
    return {"probe": told | found.get("", {"parts": found}), **trained}


def _record(name: str, task: Task, table: Table, row: int, found: Contradicted) -> dict[str, Any]:
    """A line of `contradicted.csv`."""
    label, predicted = task.output_names[found.label], task.output_names[found.predicted]
    told = {"label": label, "predicted": predicted, "probability": round(found.probability, 4)}
    return {"row": row, "id": table.id(row), "task": name, **told}


def _check_head(task: Task, head: nn.Module) -> None:
    if not isinstance(head, nn.Linear | NearestNeighbours):
        raise UserError(
            f"tune=probe: task={task.facts.type} has a head of its own, {type(head).__name__}, that is not linear. "
            "Type tune=head_only"
        )


def _metric(monitor: str, name: str, part: Task) -> str:
    """What to choose by: the monitored metric; of several tasks, each its own, unless that is the task's."""
    if not name:
        return monitor
    return monitor.removeprefix(f"{name}/") if monitor.startswith(f"{name}/") else part.monitor


def _rows(features: EncoderFeatures, rows: RowDataset, bad: BadRows) -> _Rows:
    """The usable rows of a split; those that cannot be read are added to `bad`."""
    pooled = features.of(rows)
    usable = np.array([row not in rows.bad for row in rows.split.rows.tolist()])
    columns = []
    for encoder, modality in MODALITY.items():
        width = getattr(features.model, encoder).widths.pooled
        values = torch.full((len(rows), width), torch.nan, dtype=torch.float64)
        if modality in pooled:
            there = pooled[modality].there
            values[there] = pooled[modality].values[there].cpu().double()
            if not values[there].isfinite().all():
                raise TrainingError(
                    f"model.{modality}_encoder gives features that are not finite. Type trainer.precision=32-true"
                )
        columns.append(values)
    for at in pooled["image"].unread(rows) if "image" in pooled else ():
        if (found := rows[at].bad) is not None:
            bad.add([found])
            usable[at] = False
    assert rows.targets is not None
    left = torch.from_numpy(usable)
    numbers = torch.from_numpy(rows.split.rows)[left]
    weight = torch.tensor([rows.split.table.weight(row) for row in numbers.tolist()])
    return _Rows(torch.cat(columns, 1)[left], rows.targets[left], weight, numbers)


def _set_stand_ins(model: VisionLanguageModel, mean: Tensor) -> None:
    parts = mean.split([model.image_encoder.widths.pooled, model.text_encoder.widths.pooled])
    with torch.no_grad():
        for stand_in, value in zip((model.missing_image, model.missing_text), parts, strict=True):
            stand_in.vector.copy_(value)


def _of_part(task: Task, name: str, rows: _Rows, mean: Tensor) -> tuple[Tensor, Labelled]:
    """(R,) bool, True = the row has a label for the part; and these rows, complete."""
    there, target = task.part_targets(name, rows.target)
    features = rows.features[there]
    return there, Labelled(torch.where(features.isnan(), mean, features), target, rows.weight[there])


def _solve(
    probe: Probe, metric: str, val: Labelled | None, folds: np.ndarray[Any, Any], head: nn.Module, name: str
) -> tuple[dict[str, Any], list[Contradicted]]:
    """Chooses a strength and sets the head; returns what the summary says of both."""
    with torch.no_grad():
        choice = choose(probe, metric, val if val is not None and len(val.weight) else None, folds)
        probe.solve(choice.strength, head)
        contradictions = contradicted(probe, choice.strength, folds)
    named = probe.named(choice.strength)
    shown = ", ".join(f"{key} {value}" for key, value in named.items())
    why = f"the best of {len(probe.strengths)} by {choice.by} ({choice.value:.4f})"
    if choice.value is None:
        why = "as usual, since there are neither validation rows nor folds of training rows to choose by"
    log.info("%sprobe on %d rows: %s, %s", f"{name}: " if name else "", len(probe.rows.weight), shown, why)
    count = None if contradictions is None else len(contradictions)
    facts = named | {"chosen_by": choice.by or None, "value": choice.value, "contradicted": count}
    return facts, contradictions or []
