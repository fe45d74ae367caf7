"""Builds objects from a config; nothing else instantiates what a config names."""

from __future__ import annotations

from mmft.build.callbacks import build_callbacks, check_monitoring, monitored
from mmft.build.frozen import EncoderFeatures, build_store, encoders_apart
from mmft.build.model import (
    add_auxiliary,
    apply_tuning,
    build_methods,
    build_model,
    build_plan,
    build_task,
    fit_task,
    frozen_layers,
    prepare_generation,
    start_head,
)
from mmft.build.pair import choose_for_pair
from mmft.build.probe import head_maker, solve_probe
from mmft.build.run import Run
from mmft.build.subset import choose_subset, drawn_subset
from mmft.build.training import (
    build_data,
    build_distillation,
    build_logger,
    build_module,
    build_trainer,
    preload,
    train_on,
)
from mmft.build.whole import choose_for_whole

__all__ = [
    "EncoderFeatures",
    "Run",
    "add_auxiliary",
    "apply_tuning",
    "build_callbacks",
    "build_data",
    "build_distillation",
    "build_logger",
    "build_methods",
    "build_model",
    "build_module",
    "build_plan",
    "build_store",
    "build_task",
    "build_trainer",
    "check_monitoring",
    "choose_for_pair",
    "choose_for_whole",
    "choose_subset",
    "drawn_subset",
    "encoders_apart",
    "fit_task",
    "frozen_layers",
    "head_maker",
    "monitored",
    "preload",
    "prepare_generation",
    "solve_probe",
    "start_head",
    "train_on",
]
