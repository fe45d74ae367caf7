"""`mmft COMMAND --help NAME`: the keys of a part."""

from __future__ import annotations

import pytest

from mmft.cli.main import main


@pytest.mark.parametrize(
    ("words", "there", "absent"),
    [
        (["train", "--help", "optim"], ["optim  ", "optim.lr", "optim.momentum (optim=sgd only)"], "schedule."),
        (["train", "model/fusion", "-h"], ["model/fusion  ", "model.fusion.hidden"], "model.image_encoder"),
        (["train", "-h", "tune", "data.limit"], ["tune/image_encoder  ", "data.limit"], "data.path"),
        (["train", "-h", "data.columns.label"], ["data.columns.label"], "data.columns.image"),
        (["train", "-h", "hydra.sweeper"], ["hydra.sweeper.n_trials"], "optim.lr"),
        (["train", "-h", "experiment"], ["experiment  "], "keys of"),
        (["runs", "--help", "sort"], ["sort"], "compare"),
    ],
)
def test_a_part_is_shown_alone(
    words: list[str], there: list[str], absent: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert all(one in shown for one in there), shown
    assert absent not in shown


def test_an_unknown_part_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--help", "optimm"]) == 2
    assert "optimm: mmft train has no such key or group. Did you mean optim?" in capsys.readouterr().err
    assert main(["runs", "--help", "optim"]) == 2  # of another command
