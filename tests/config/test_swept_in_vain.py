"""A dimension of a sweep that something typed later removes is an error; one that changes the runs is none."""

from __future__ import annotations

import pytest
from composed_once import COMPLETE

from mmft.config.compose import compose
from mmft.errors import UserError

OPTUNA = "hydra/sweeper=optuna"


@pytest.fixture(autouse=True)
def _rows(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # type: ignore[arg-type]
    with open("rows.csv", "w") as stream:  # noqa: PTH123
        stream.write("title,label\n")


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["optim.lr=1,2", "optim.lr=1e-3"], "optim.lr: all values .* optim.lr=1e-3 replaces them"),
        (["optim=adamw,sgd", "optim=sgd"], "optim: all values .* optim=sgd replaces them"),
        (["optim.lr=1,2", "optim={lr:1e-3}"], r"optim.lr: all values .* optim=\{lr:1e-3\} replaces them"),
        ([OPTUNA, "optim.lr=interval(1e-5,1e-3)", "optim.lr=1e-3"], "optim.lr=1e-3 replaces them"),
        (["seed=range(0,300)", "optim.lr=1,2", "seed=1"], "seed: all values .* seed=1 replaces them"),
        (["optim=adamw,sgd", "optim.beta1=0.5"], "optim.beta1: belongs to optim=adamw"),
    ],
)
def test_a_removed_dimension(typed: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        compose("train", [*COMPLETE, *typed], multirun=True)


@pytest.mark.parametrize(
    "typed",
    [
        ["optim.lr=1e-3", "optim.lr=1,2"],
        ["optim=sgd", "optim=adamw,sgd"],
        ["optim=adamw,sgd", "seed=0,1"],
        [OPTUNA, "optim.lr=interval(1e-5,1e-3)", "seed=0"],
    ],
)
def test_a_dimension_that_changes_the_runs(typed: list[str]) -> None:
    compose("train", [*COMPLETE, *typed], multirun=True)
