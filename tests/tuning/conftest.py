"""Small encoders under a tuning method, and runs that are loaded again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import TrainRun
from tuned_encoders import Fit, fitting

import mmft
from mmft import build
from mmft.config.schema.model import ENCODERS
from mmft.models.vision_language_model import VisionLanguageModel, part_of


@pytest.fixture
def fit(image_encoder_folder: Any, text_encoder_folder: Any, shapes_overrides: list[str]) -> Fit:
    """`fit(kind, "adapters", "width=8")`: a small encoder with the method applied, and the method."""
    return fitting(image_encoder_folder, text_encoder_folder, shapes_overrides)


@pytest.fixture
def check_saved(train_run: TrainRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`check_saved("tune=adapters", ...)`: trains, moves the run, loads it; both models must give the same.

    Only what was added, fusion and head may be in the saved model.
    """
    models: list[VisionLanguageModel] = []
    plan = build.build_plan

    def remember(config: Any, model: VisionLanguageModel, changed: Any) -> Any:
        models.append(model)
        return plan(config, model, changed)

    def check(*overrides: str) -> None:
        monkeypatch.setattr(build, "build_plan", remember)
        run = train_run("optim.lr=1e-2", *overrides)
        trained = models[-1].eval().cpu()
        names = {f"{t}.{n}" for t in ENCODERS for n, p in getattr(trained, t).named_parameters() if p.requires_grad}
        assert {name for name in run.model_state if part_of(name) in ENCODERS} == names
        shutil.move(run.path, tmp_path / "moved")
        loaded = mmft.load(tmp_path / "moved").model
        images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
        ids = torch.randint(5, 20, (4, 8))
        with torch.no_grad():
            for encoder, given in (("image_encoder", (images,)), ("text_encoder", (ids, torch.ones_like(ids) > 0))):
                one, other = getattr(trained, encoder)(*given), getattr(loaded, encoder)(*given)
                assert torch.equal(one.pooled, other.pooled)
                assert torch.equal(one.tokens, other.tokens)

    return check
