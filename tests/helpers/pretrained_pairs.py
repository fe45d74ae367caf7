"""Pretrained pairs in tests: what mmft computes with one, and short runs on one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import Run
from tiny_pairs import IMAGE_SIZE
from torch import Tensor

from mmft import build
from mmft.commands.train import train
from mmft.config.compose import compose
from mmft.models.vision_language_model import VisionLanguageModel

PairRun = Callable[..., Run]


def begun(pair: Path, *typed: str) -> tuple[VisionLanguageModel, Any]:
    """The model and the config that `mmft train model.pair=...` begins with."""
    config = compose("train", [f"model.pair={pair}", "task=contrastive", *typed]).config
    build.choose_for_pair(config, Path.cwd())
    task = build.build_task(config.task)
    task.fit([])
    return build.build_model(config.model, task.make_head, seed=0).eval(), config


def images(count: int, size: int = IMAGE_SIZE) -> Tensor:
    """Random uint8 images, the same each time."""
    random = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, size, size), generator=random, dtype=torch.uint8)


def logits(model: VisionLanguageModel, pixels: Tensor, texts: list[str]) -> Tensor:
    """The scaled similarity of each image with each text."""
    encoder = model.text_encoder
    longest = encoder.max_length
    tokens = encoder.tokenizer(texts, return_tensors="pt", padding=True, truncation=True, max_length=longest)
    image, text = model.image_encoder(pixels), encoder(tokens["input_ids"], tokens["attention_mask"].bool())
    both = model.head(model.fusion(image, text)).chunk(2, dim=-1)
    return both[0] @ both[1].T


def check_logits(model: VisionLanguageModel, pixels: Tensor, texts: list[str], expected: Tensor) -> None:
    """Asserts the similarities, of all rows in a batch and of each row alone."""
    assert torch.allclose(logits(model, pixels, texts), expected, atol=1e-5)
    for row, text in enumerate(texts):
        alone = logits(model, pixels[row : row + 1], [text])
        assert torch.allclose(alone, expected[row : row + 1, row : row + 1], atol=1e-5)


def without_gradient(pair: Path, fusion: str) -> set[str]:
    """The trained parameters that get no gradient from rows with both modalities; stand-ins need others."""
    config = compose("train", [f"model.pair={pair}", f"model/fusion={fusion}", "tune=full"]).config
    model = build.build_model(config.model, 3, seed=0)
    plan = build.build_plan(config, model)
    ids = torch.arange(6).repeat(2, 1)
    image, text = model.image_encoder(images(2)), model.text_encoder(ids, ids >= 0)
    model.head(model.fusion(image, text)).square().sum().backward()
    return {name for name in plan.names if model.get_parameter(name).grad is None and "missing" not in name}


def on_pair(pair: Path, shapes: Any, *more: str) -> list[str]:
    """The overrides that train a pair on the shapes."""
    own = [o for o in shapes.overrides if not o.startswith(("model.", "optim."))]
    quiet = ["data.columns.label=null", "callbacks.progress=none", "modality_report=false"]
    return [*own, f"model.pair={pair}", "task=contrastive", *quiet, *more]


@pytest.fixture
def pair_run(tmp_path: Path, shapes: Any) -> PairRun:
    """`pair_run(pair, *overrides)`: a short run on the shapes."""

    def run(pair: Path, *more: str) -> Run:
        path = tmp_path / f"pair{len(list(tmp_path.iterdir()))}"
        typed = on_pair(pair, shapes, "data.limit=48", "trainer.max_steps=5", "trainer.precision=32-true", *more)
        assert train(compose("train", typed), path) == 0
        return Run(path)

    return run
