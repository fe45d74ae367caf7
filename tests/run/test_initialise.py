"""What `init=RUN` refuses."""

from __future__ import annotations

import pytest
from runs import TrainRun

from mmft.errors import UserError


def test_a_run_whose_additions_no_encoder_has_a_place_for(train_run: TrainRun) -> None:
    first = train_run("tune=adapters", "trainer.max_epochs=1")
    with pytest.raises(UserError, match=r"init=.*tuned by tune/image_encoder=adapters and .*such as tune=lora"):
        train_run(f"init={first.path}", "tune=full", "optim.lr=null", "trainer.max_epochs=1")
