"""The folder of a new run is that of no other command."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmft.config.compose import compose
from mmft.errors import UserError
from mmft.run.naming import make_run_folder


def test_of_two_commands_that_start_together_one_gets_the_typed_folder(
    shapes_overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    composed = compose("train", [*shapes_overrides, f"hydra.run.dir={tmp_path / 'run'}"])
    assert make_run_folder(composed, sweep=False) == tmp_path / "run"
    with pytest.raises(UserError, match="exists and is not empty"):
        make_run_folder(composed, sweep=False)
    monkeypatch.setattr(Path, "iterdir", lambda _: iter(()))  # as both saw it
    with pytest.raises(UserError, match=r"hydra.run.dir: .*run was just taken by another command"):
        make_run_folder(composed, sweep=False)
