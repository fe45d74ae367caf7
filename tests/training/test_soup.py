"""Soups: the mean, the greedy choice, and whole runs whose best checkpoints are kept."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pytest
import torch
from command import fork_mmft
from make_shapes import Shapes
from runs import Run, TrainRun, killed_run, of_one_and_two_ranks, resumed, same_weights
from torch import Tensor

from mmft.commands.train import train
from mmft.config.compose import compose
from mmft.errors import UserError
from mmft.training.callbacks.weight_averaging import validated_weights
from mmft.training.checkpoint import write
from mmft.training.soup import Ingredient, Soup, greedy_soup, uniform_soup

SOUP = ["checkpoint.keep=3", "trainer.max_epochs=4", "optim.lr=1e-2", "checkpoint.monitor=loss"]


def test_the_mean() -> None:
    """In float64, in the dtypes of before; what counts is the best's."""
    states = [
        {"a": torch.tensor([1.0, 1e8]), "b": torch.tensor([i], dtype=torch.bfloat16), "n": torch.tensor(7 - i)}
        for i in range(3)
    ]
    states[1]["a"] = torch.tensor([4.0, -1e8])
    soup = Soup(states[0])
    more = soup.with_(states[1]).with_(states[2])
    assert (soup.count, more.count) == (1, 3)
    assert torch.equal(soup.weights()["a"], states[0]["a"])
    mean = more.weights()
    assert torch.equal(mean["a"], torch.tensor([2.0, 1e8 / 3]))
    assert torch.equal(mean["b"], torch.tensor([1.0], dtype=torch.bfloat16))
    assert torch.equal(mean["n"], torch.tensor(7))


@pytest.fixture
def kept(tmp_path: Path) -> list[Ingredient]:
    """Four checkpoints of one number each: 0, 4, 2 and -6."""
    found = []
    for step, (number, value) in enumerate([(0.0, 0.9), (4.0, 0.8), (2.0, 0.8), (-6.0, 0.7)]):
        folder = tmp_path / str(step)
        folder.mkdir()
        write(folder, {"callbacks": {}, "state_dict": {"w": torch.tensor(number)}})
        found.append(Ingredient(step, {"accuracy": value, "loss": -value}, folder))
    return found


@pytest.mark.parametrize(("monitor", "sign"), [("accuracy", 1), ("loss", -1)])
@pytest.mark.parametrize(
    ("values", "steps"),
    [
        ({2.0: 0.8, 1.0: 0.95, -2.0: 0.95}, [0, 2]),  # 4 stays out, 2 goes in, then -6 makes it worse
        ({2.0: 0.9, -2.0: 0.9, 2.0 + 0.0: 0.9}, [0, 1, 2, 3]),  # as good is good enough
        ({2.0: math.nan, 1.0: 0.1}, [0]),
    ],
)
def test_the_greedy_choice(
    kept: list[Ingredient], values: Mapping[float, float], steps: list[int], monitor: str, sign: int
) -> None:
    asked: list[float] = []

    def validate(weights: Mapping[str, Tensor]) -> dict[str, float]:
        asked.append(round(float(weights["w"]), 6))
        default = 0.9 if len(steps) == 4 else 0.5
        return {monitor: sign * values.get(asked[-1], default)}

    cooked = greedy_soup(kept, validate, monitor, minimised=sign < 0)
    assert cooked.steps == steps
    assert len(asked) == 3  # of the best it is known
    numbers = [0.0, 4.0, 2.0, -6.0]
    assert float(cooked.weights["w"]) == sum(numbers[i] for i in steps) / len(steps)
    last = {monitor: sign * 0.9} if steps == [0] or len(steps) == 4 else {monitor: sign * 0.95}
    assert cooked.metrics[monitor] == last[monitor]


def test_the_uniform_one_takes_all(kept: list[Ingredient]) -> None:
    cooked = uniform_soup(kept, lambda weights: {"accuracy": float(weights["w"])})
    assert cooked.steps == [0, 1, 2, 3]
    assert float(cooked.weights["w"]) == cooked.metrics["accuracy"] == 0.0


def folders(run: Run) -> set[str]:
    return {path.name for path in (run.path / "checkpoints").iterdir()}


def losses(run: Run) -> dict[int, float]:
    """The validation's loss by optimizer step."""
    table = pd.read_csv(run.path / "metrics.csv").dropna(subset=["val/loss"])
    return dict(zip(table["step"].tolist(), table["val/loss"].tolist(), strict=True))


def mean_of(run: Run, steps: list[int]) -> dict[str, Tensor]:
    states = [validated_weights(run.path / "checkpoints" / f"step_{step}") for step in steps]
    return {
        name.removeprefix("model."): torch.stack([s[name].double() for s in states]).mean(0).to(value.dtype)
        for name, value in states[0].items()
    }


def validation_of(run: Run, shapes: Shapes, folder: Path) -> float:
    """The finished model's loss on the validation rows, by a command of its own."""
    table = pd.read_csv(shapes.rows).query("split == 'val'").assign(split="test")
    table.to_csv(folder / "val.csv", index=False)
    typed = [f"run={run.path}", f"data.path={folder / 'val.csv'}", f"data.root={shapes.rows.parent}"]
    done = fork_mmft("test", *typed)
    assert done.returncode == 0
    return float(next(line for line in done.stdout.splitlines() if line.startswith("loss ")).split()[1])


@pytest.mark.parametrize("more", [[], ["callbacks.ema.decay=0.5"]])
def test_a_uniform_run(more: list[str], train_run: TrainRun) -> None:
    """Of averaged weights where there are some; the log knows of training's validations alone."""
    plain, run = train_run(*SOUP, *more), train_run(*SOUP, *more, "checkpoint.use=soup_uniform")
    by_loss = sorted(losses(run), key=lambda step: losses(run)[step])
    assert run.summary["soup_steps"] == by_loss[:3]
    assert run.summary["best_step"] == by_loss[0]
    assert run.summary["model_step"] is None
    assert folders(run) == folders(plain) == {"last", "best", *(f"step_{step}" for step in by_loss[:3])}
    wanted = mean_of(run, by_loss[:3])
    assert run.model_state.keys() == wanted.keys()
    assert all(torch.equal(value, wanted[name]) for name, value in run.model_state.items())
    assert run.metrics.splitlines()[:-1] == plain.metrics.splitlines()[:-1]  # the last is the test's
    assert same_weights(run, plain)
    assert "soup_steps" not in plain.summary
    assert run.summary["val"]["loss"] not in losses(run).values()  # the soup's own
    assert run.summary["test"] != plain.summary["test"]


@pytest.mark.slow
def test_a_greedy_run_and_its_validation(train_run: TrainRun, shapes: Shapes, tmp_path: Path) -> None:
    run = train_run(*SOUP, "checkpoint.use=soup_greedy", "data.limit=null", "trainer.accelerator=cpu")
    steps, by_loss = run.summary["soup_steps"], sorted(losses(run), key=lambda step: losses(run)[step])
    assert steps[0] == by_loss[0] == run.summary["best_step"]
    assert set(steps) <= set(by_loss[:3])
    wanted = mean_of(run, steps)
    assert all(torch.equal(value, wanted[name]) for name, value in run.model_state.items())
    assert run.summary["val"]["loss"] <= min(losses(run).values())
    assert validation_of(run, shapes, tmp_path) == pytest.approx(run.summary["val"]["loss"], abs=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("step", "moment"), [(3, "after"), (7, "while"), (9, "after"), (12, "after")])
def test_resume_is_exact(
    train_run: TrainRun, shapes_overrides: list[str], tmp_path: Path, step: int, moment: str
) -> None:
    """A kill after the last save of an epoch cuts off what is made of it: `best` and `step_N`."""
    typed = [*SOUP, "checkpoint.keep=2", "checkpoint.use=soup_greedy", "checkpoint.every_steps=1"]
    undisturbed = train_run(*typed)
    killed_run([*shapes_overrides, *typed], tmp_path / "killed", step, moment)
    run = resumed([*shapes_overrides, *typed], tmp_path / "killed")
    assert same_weights(run, undisturbed)
    assert run.metrics == undisturbed.metrics
    assert folders(run) == folders(undisturbed)
    for name in ("soup_steps", "val", "test", "best_step"):
        assert run.summary[name] == undisturbed.summary[name], name
    assert all(torch.equal(value, undisturbed.model_state[name]) for name, value in run.model_state.items())


def test_an_early_stop_leaves_few(train_run: TrainRun) -> None:
    """A soup of what there is; another run starts from it."""
    stops = ["callbacks.early_stopping.patience=1", "checkpoint.monitor=null", "optim.lr=1e-9", "optim.head_lr=1e-9"]
    run = train_run(*SOUP, *stops, "checkpoint.use=soup_greedy")
    assert run.summary["stopped_early"]
    assert run.summary["soup_steps"][0] == run.summary["best_step"] == 3
    other = train_run(f"init={run.path}", "trainer.max_epochs=1")
    assert other.summary["status"] == "completed"


def test_no_validation_rows_are_told(shapes: Shapes, shapes_overrides: list[str], tmp_path: Path) -> None:
    """A split column may have none; otherwise it is known when the config is read."""
    pd.read_csv(shapes.rows).query("split != 'val'").to_csv(tmp_path / "rows.csv", index=False)
    typed = [f"data.path={tmp_path / 'rows.csv'}", f"data.root={shapes.rows.parent}", *SOUP[:3]]
    for more in (["checkpoint.use=soup_uniform"], []):
        with pytest.raises(UserError, match="checkpoint.keep=3: there are no validation rows"):
            train(compose("train", [*shapes_overrides, *typed, *more]), tmp_path / f"run{len(more)}")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("trainer", ["ddp", "fsdp"])
def test_two_ranks_cook_the_soup_of_one(trainer: str, shapes_overrides: list[str], tmp_path: Path) -> None:
    sgd = ["optim=sgd", "optim.lr=0.05", "optim.head_lr=0.05", "model.dropout=0", "trainer.precision=32-true"]
    typed = [*shapes_overrides, "checkpoint.keep=3", "trainer.max_epochs=4", "checkpoint.use=soup_greedy", *sgd]
    one, two = of_one_and_two_ranks([*typed, "checkpoint.monitor=loss"], trainer, tmp_path)
    assert one.summary["soup_steps"] == two.summary["soup_steps"]
    assert folders(one) == folders(two)
    assert max(float((one.model_state[n] - two.model_state[n]).abs().max()) for n in one.model_state) <= 1e-5
