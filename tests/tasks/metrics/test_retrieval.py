"""Retrieval metrics against a loop over everything, and their memory."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from mmft.tasks.metrics import retrieval
from mmft.tasks.metrics.names import lower_is_better
from mmft.tasks.metrics.retrieval import RetrievalMetric

ROWS = 60


def rows(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings and identities of rows some of which share a number, a text or a group."""
    random = np.random.default_rng(seed)
    number, text = random.integers(0, 35, ROWS), random.integers(100, 145, ROWS)
    group = np.where(random.random(ROWS) < 0.4, random.integers(0, 6, ROWS), -1)
    generator = torch.Generator().manual_seed(seed)
    images, texts = torch.randn(35, 6, generator=generator), torch.randn(45, 6, generator=generator)
    identity = torch.from_numpy(np.stack([number, text, group], axis=1))
    image = functional.normalize(images[identity[:, 0]], dim=1)
    texts += 0.5 * images[torch.arange(45) % 35]
    return image, functional.normalize(texts[identity[:, 1] - 100], dim=1), identity


def measured(image: Tensor, text: Tensor, identity: Tensor, batches: int = 4) -> dict[str, float]:
    metric = RetrievalMetric()
    for part in zip(*(x.chunk(batches) for x in (image, text, identity)), strict=True):
        metric.update(*part)
    return {name: float(value) for name, value in metric.compute().items()}


def by_hand(image: Tensor, text: Tensor, identity: Tensor) -> dict[str, float]:
    """Straight from the definition, one query after another."""
    known = [tuple(row) for row in identity.tolist()]
    found = {}
    for way, one, other, column in (("image_to_text", image, text, 0), ("text_to_image", text, image, 1)):
        first = {name: at for at, name in reversed(list(enumerate(row[1 - column] for row in known)))}
        ranks = []
        for query in sorted({row[column] for row in known}):
            mine = [row for row in known if row[column] == query]
            at = next(i for i, row in enumerate(known) if row[column] == query)
            groups = {row[2] for row in mine} - {-1}
            belongs = {row[1 - column] for row in known if row in mine or row[2] in groups}
            scores = {name: float(one[at] @ other[place]) for name, place in first.items()}
            best = max(scores[name] for name in belongs)
            ranks.append(1 + sum(score >= best for name, score in scores.items() if name not in belongs))
        found |= {f"{way}/recall@{k}": float(np.mean([rank <= k for rank in ranks])) for k in (1, 5, 10)}
        found[f"{way}/median_rank"] = float(np.median(ranks))
        found[f"{way}/mrr"] = float(np.mean([1 / rank for rank in ranks]))
    found["mean_recall"] = float(np.mean([value for name, value in found.items() if "recall@" in name]))
    return found


@pytest.mark.parametrize("seed", range(5))
def test_is_the_definition(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = by_hand(*rows(seed))
    assert 0.1 < expected["mean_recall"] < 0.9
    assert measured(*rows(seed)) == pytest.approx(expected, abs=1e-12)
    monkeypatch.setattr(retrieval, "_BLOCK", 200)
    assert measured(*rows(seed)) == pytest.approx(expected, abs=1e-12)


def test_order_of_rows_changes_nothing() -> None:
    image, text, identity = rows()
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(1))
    assert measured(image[order], text[order], identity[order]) == measured(image, text, identity)


def test_names_are_what_is_computed() -> None:
    found = measured(*rows())
    assert list(found) == RetrievalMetric.names()
    assert {name for name in found if lower_is_better(name)} == {
        "image_to_text/median_rank",
        "text_to_image/median_rank",
    }


def test_a_model_that_gives_all_the_same_finds_nothing() -> None:
    one = functional.normalize(torch.ones(ROWS, 6), dim=1)
    numbers = torch.arange(ROWS)
    found = measured(one, one, torch.stack([numbers, numbers, torch.full((ROWS,), -1)], dim=1))
    assert found["mean_recall"] == 0.0
    assert found["image_to_text/median_rank"] == ROWS


def test_five_captions_of_a_image_are_one_query_and_five_answers() -> None:
    images, texts = torch.arange(4).repeat_interleave(5), torch.arange(20)
    image, text = torch.eye(20)[:, :20][images * 5], torch.eye(20)
    found = measured(image, text, torch.stack([images, texts, torch.full((20,), -1)], dim=1))
    assert found["image_to_text/recall@1"] == 1.0  # the first caption of each is the nearest
    assert found["text_to_image/recall@1"] == 0.2  # of the others no image is nearer than another


MEASURE = """
import torch
from mmft.training.memory import forget_peak, held_bytes, peak_bytes
from mmft.tasks.metrics.retrieval import RetrievalMetric
image, text = (torch.nn.functional.normalize(torch.randn(100_000, 64), dim=1) for _ in range(2))
texts = torch.arange(100_000)
metric = RetrievalMetric()
metric.update(image, text, torch.stack([texts // 20, texts, texts // 140], dim=1))
metric.compute()
print(peak_bytes(torch.device("cpu")))
"""


@pytest.mark.slow
def test_100000_captions_take_less_than_2_gb() -> None:
    """The whole process, with torch's own. The number of queries, here 5,000 images, costs time alone."""
    done = subprocess.run([sys.executable, "-c", MEASURE], check=True, capture_output=True, text=True)
    assert int(done.stdout) < 2e9
