"""`attributions.jsonl`: what in a few test rows supports or opposes their predictions, for the report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mmft.config.schema.root import TrainConfig
from mmft.data.splitting.splits import Split
from mmft.data.spread import spread_evenly
from mmft.files import write_text
from mmft.reports.page.evidence import Answers, Evidence
from mmft.run.loaded_model import LoadedModel
from mmft.run_folder import RunFolder

_ROWS, _POINTS = 4, 32  # integrated gradients of a row need one forward and backward pass for each point


def attributed_rows(config: TrainConfig) -> int:
    """How many rows `attributions` asks for."""
    if config.attributions is not None:
        return config.attributions
    return 0 if config.task.generates else _ROWS


def write_attributions(folder: RunFolder, model: LoadedModel, count: int) -> None:
    """Explains the predictions of a few rows of predictions.csv.

    Args:
        folder: of a run that has predictions.csv.
        model: its model.
        count: rows; 0 writes nothing. Nor is anything written of a model of captions, which compares images with many.
    """
    run = Evidence(folder)
    if not count or not run.splits or not run.answers[0].rows or model.saved.task.captions_of is not None:
        return
    answers = run.answers[0]
    rows = sorted(int(answers.rows[at]["row"]) for at in chosen(answers, count))
    split = Split(run.splits[answers.split].table, np.array(rows, dtype=np.int64))
    reading = replace(run.config.data, num_workers=0)
    lines = [json.dumps(one.numbers(), ensure_ascii=False) for one in model.explained(split, reading, None, _POINTS)]
    write_text(folder.attributions, "".join(f"{line}\n" for line in lines))


def chosen(answers: Answers, count: int) -> Sequence[int]:
    """Places of rows to explain: the most confident mistakes for one half, for the other rows spread over the rest."""
    scores = [float(score) if score else -np.inf for score in answers.column("score")]
    wrong = sorted((at for at, right in enumerate(answers.right) if right is False), key=lambda at: -scores[at])
    mistakes = wrong[: count // 2]
    others = [at for at, right in enumerate(answers.right) if right is not False]
    spread = spread_evenly(len(others), count - len(mistakes))
    return [*mistakes, *(others[place] for place in spread.tolist())]
