"""Stand-ins of missing images and texts are computed only where a row lacks one, and are trained as if always."""

from __future__ import annotations

import pytest
from runs import TrainRun, same_weights

from mmft.models.vision_language_model import VisionLanguageModel


@pytest.mark.parametrize("typed", [[], ["model.modality_dropout=0.5"]])
def test_they_take_part_in_each_step(train_run: TrainRun, typed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Moments included, also of steps in which no row lacks anything."""
    ours = train_run(*typed)
    monkeypatch.setattr(VisionLanguageModel, "reads_stand_ins", True)
    assert same_weights(ours, train_run(*typed))
