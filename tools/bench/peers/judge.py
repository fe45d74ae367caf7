"""The quality of what a peer answered on the test rows, by the same code for all."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def accuracy(rows: Path, answers: Path) -> float:
    """Share of test rows whose prediction is their label.

    Args:
        rows: the table with the columns id and label.
        answers: a table with the columns id and prediction, one row for each of them.
    """
    truth = {row["id"]: row["label"] for row in _read(rows)}
    given = {row["id"]: row["prediction"] for row in _read(answers)}
    if given.keys() != truth.keys():
        raise ValueError(f"{answers} does not have the rows of {rows}: {len(given)} of {len(truth)}")
    return sum(given[row] == label for row, label in truth.items()) / len(truth)


def mean_recall(rows: Path, embeddings: Path) -> float:
    """Mean of recall at 1, 5 and 10, from image to text and from text to image; a row's own pair is the only right one.

    Args:
        rows: the table of test rows.
        embeddings: `image` and `text`, each (rows, D), compared by cosine.
    """
    count = len(_read(rows))
    with np.load(embeddings) as arrays:
        image, text = (_unit(arrays[name].astype(np.float64)) for name in ("image", "text"))
    if not len(image) == len(text) == count:
        raise ValueError(f"{embeddings} has {len(image)} images and {len(text)} texts of {count} rows")
    similarity = image @ text.T
    recalls = []
    for one_way in (similarity, similarity.T):
        rank = (one_way >= np.diag(one_way)[:, None]).sum(axis=1)  # 1: its own is the most similar, and alone is so
        recalls += [(rank <= top).mean() for top in (1, 5, 10)]
    return float(np.mean(recalls))


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths: NDArray[np.float64] = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / lengths
