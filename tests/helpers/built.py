"""What `mmft train` builds before it trains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mmft import build
from mmft.config.compose import compose
from mmft.config.schema.root import TrainConfig
from mmft.data.datamodule import VisionLanguageData
from mmft.data.splitting.splits import load_splits
from mmft.models.vision_language_model import VisionLanguageModel
from mmft.training.hardware import choose_hardware


class Built(NamedTuple):
    """Of a config: the model, before any tuning method is applied, and the rows."""

    config: TrainConfig
    model: VisionLanguageModel
    data: VisionLanguageData


def built(overrides: Sequence[str]) -> Built:
    """Composes the overrides and builds."""
    config: TrainConfig = compose("train", overrides).config
    choose_hardware(config.trainer, 1)
    splits = load_splits(config.data, config.seed)
    task = build.build_task(config.task)
    task.fit(splits["train"].table.labels(splits["train"].rows))
    model = build.build_model(config.model, task.make_head, config.seed)
    return Built(config, model, build.build_data(config, splits, model, task))
