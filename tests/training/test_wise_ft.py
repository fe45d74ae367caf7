"""WiSE-FT: the arithmetic, the choice of alpha, what each tuning method's interpolation is, and whole runs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from make_shapes import Shapes, captions
from runs import Run, TrainRun, killed_run, of_one_and_two_ranks, resumed
from tiny_pairs import make_pair
from torch import Tensor

from mmft import build
from mmft.commands.train import train
from mmft.config.compose import compose
from mmft.errors import UserError
from mmft.models.vision_language_model import part_of
from mmft.training.wise_ft import best_alpha, interpolated

WISE = ["checkpoint.use=wise_ft", "optim.lr=1e-2"]


def test_the_interpolation() -> None:
    start = {"a": torch.tensor([1.0, 1e8]), "b": torch.tensor([2.0])}
    tuned = {"a": torch.tensor([5.0, -1e8]), "b": torch.tensor([4.0], dtype=torch.bfloat16)}
    found = interpolated(start, tuned, 0.25)
    assert torch.equal(found["a"], torch.tensor([0.75 * 1 + 0.25 * 5, 0.75 * 1e8 - 0.25 * 1e8]))
    assert torch.equal(found["b"], torch.tensor([2.5], dtype=torch.bfloat16))
    odd = {"a": torch.rand(99)}, {"a": torch.rand(99)}
    for alpha in (0, 1):  # the ends are exact
        assert torch.equal(interpolated(*odd, alpha)["a"], odd[alpha]["a"])


@pytest.mark.parametrize(
    ("values", "minimised", "best"),
    [
        ({0.25: 0.5, 0.5: 0.75, 1.0: 0.75}, False, 0.5),  # the nearer to the start of two equal ones
        ({0.25: 0.5, 0.5: 0.75, 1.0: 0.25}, True, 1.0),
        ({0.25: math.nan, 0.5: 0.1}, False, 0.5),
        ({0.25: math.nan, 0.5: math.nan}, False, 0.5),
    ],
)
def test_the_best_alpha(values: dict[float, float], minimised: bool, best: float) -> None:
    assert best_alpha(values, minimised) == best


@pytest.mark.parametrize(
    ("tolerance", "chosen"), [(0.0, 0.8), (0.005, 0.8), (0.01, 0.7), (0.02, 0.5), (0.5, 0.0), (math.inf, 0.0)]
)
@pytest.mark.parametrize("minimised", [False, True])
def test_the_smallest_alpha_within_the_tolerance(tolerance: float, chosen: float, minimised: bool) -> None:
    """Of recalls, or of one minus them; 0.75 - 0.74 is a little more than 0.01 in floats."""
    recalls = {0.0: 0.3, 0.5: 0.735, 0.7: 0.74, 0.8: 0.75, 1.0: 0.745, 0.6: math.nan}
    values = {alpha: 1 - recall if minimised else recall for alpha, recall in recalls.items()}
    assert best_alpha(values, minimised, tolerance) == chosen


def start_of(overrides: list[str]) -> dict[str, Tensor]:
    """The model's tensors as they are before the first step."""
    config = compose("train", overrides).config
    model = build.build_model(config.model, 6, config.seed)
    build.apply_tuning(config, model)
    return model.state_dict()


@pytest.mark.parametrize("more", [[], pytest.param(["callbacks.ema.decay=0.5"], marks=pytest.mark.slow)])
def test_a_run(more: list[str], train_run: TrainRun, shapes_overrides: list[str]) -> None:
    """Encoders are half way back, what began at random stays, validation and test are of the finished model."""
    plain = train_run(*WISE[1:], *more)
    run = train_run(*WISE, *more)
    start, tuned = start_of(shapes_overrides), plain.model_state
    assert run.model_state.keys() == tuned.keys()
    moved = 0
    for name, value in run.model_state.items():
        if part_of(name).endswith("encoder"):
            wanted = (start[name].double() + tuned[name].double()) / 2
            torch.testing.assert_close(value.double(), wanted, rtol=1e-6, atol=1e-7)
            moved += int(not torch.equal(value, tuned[name]))
        else:
            assert torch.equal(value, tuned[name]), name
    assert moved > 20
    assert run.summary["alpha"] == 0.5
    assert run.summary["model_step"] == plain.summary["model_step"]
    assert run.summary["alphas"] == [{"alpha": 0.5, "val/accuracy": run.summary["val"]["accuracy"]}]
    assert run.summary["val"] != plain.summary["val"]
    assert run.summary["test"] != plain.summary["test"]
    assert run.metrics.splitlines()[:-1] == plain.metrics.splitlines()[:-1]  # the last is the test's


def test_the_best_of_several_alphas(train_run: TrainRun) -> None:
    run = train_run(*WISE, "checkpoint.alpha=[1,0,0.5]", "checkpoint.monitor=loss")
    listed = {one["alpha"]: one["val/loss"] for one in run.summary["alphas"]}
    assert list(listed) == [0, 0.5, 1]
    assert len(set(listed.values())) == 3
    assert run.summary["alpha"] == min(listed, key=lambda alpha: listed[alpha])
    assert run.summary["val"]["loss"] == min(listed.values())
    alone = train_run(*WISE, f"checkpoint.alpha={sorted(listed)[1]}", "checkpoint.monitor=loss")
    assert alone.summary["val"]["loss"] == pytest.approx(listed[0.5], abs=1e-6)


def test_a_tolerance_takes_a_smaller_alpha(train_run: TrainRun) -> None:
    """One that is as large as all differences takes the start; the rest of the run is the same."""
    typed = [*WISE, "checkpoint.alpha=[1,0.2,0.5]", "checkpoint.monitor=loss"]
    exact, tolerant = train_run(*typed), train_run(*typed, "checkpoint.alpha_tolerance=10")
    assert exact.summary["alpha"] > 0.2
    assert tolerant.summary["alpha"] == 0.2
    assert tolerant.summary["alphas"] == exact.summary["alphas"]
    assert tolerant.summary["val"]["loss"] == tolerant.summary["alphas"][0]["val/loss"]


METHODS = ["lora", "loha", "ia3", "adapters", "last_n", "bitfit", "lora_8bit"]


@pytest.mark.parametrize("method", METHODS)
def test_the_change_of_each_method_is_scaled(method: str, shapes_overrides: list[str]) -> None:
    """A quarter of the change of an encoder's layer, or of what an adapter adds."""
    config: Any = compose("train", [*shapes_overrides, f"tune={method}", "checkpoint.use=wise_ft"]).config
    model = build.build_model(config.model, 6, config.seed)
    plan = build.build_plan(config, model)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if name in plan.names and part_of(name).endswith("encoder"):
            parameter.data += 0.3 * torch.rand_like(parameter)
    names = plan.started_names(model)
    tuned = {name: value.clone() for name, value in model.state_dict().items() if name in names}
    parts = {
        alpha: _layer(model.eval(), interpolated(start, tuned, alpha), plan.methods["text_encoder"])
        for alpha in (0.0, 0.25, 1.0)
    }
    whole = parts[1.0] - parts[0.0]
    assert float(whole.abs().max()) > 1e-2
    tolerance = 1e-2 if method == "lora_8bit" else 1e-5
    torch.testing.assert_close(parts[0.25] - parts[0.0], whole / 4, rtol=tolerance, atol=tolerance)


def _layer(model: Any, weights: dict[str, Tensor], method: str) -> Tensor:
    """What one changed module of the last block of the text encoder makes of a fixed input."""
    model.load_state_dict(weights, strict=False)
    block = model.text_encoder.backbone.encoder.layer[-1]
    if method == "adapters":
        found = next(m for name, m in block.named_modules() if name.endswith("adapter"))
    else:
        found = block.attention.self.query
    given = torch.linspace(-1, 1, 32).repeat(4, 1) * torch.tensor([[1.0], [2.0], [-1.0], [0.5]])
    with torch.no_grad():
        output: Tensor = found(given)
    return output.clone()


def test_init_gives_fusion_and_head_a_start(train_run: TrainRun, shapes_overrides: list[str]) -> None:
    first = train_run("trainer.max_epochs=1")
    config = compose("train", [*shapes_overrides, "tune=head_only", "optim.lr=null", *WISE[:1]]).config
    with pytest.raises(UserError, match="nothing that is trained has pretrained weights"):
        build.build_plan(config, build.build_model(config.model, 6, config.seed))
    typed = [f"init={first.path}", "tune=head_only", "optim.lr=null", "optim.head_lr=1e-2"]
    plain, run = train_run(*typed), train_run(*typed, *WISE[:1])
    assert "head.weight" in run.model_state
    for name in ("head.weight", "head.bias"):
        wanted = (first.model_state[name].double() + plain.model_state[name].double()) / 2
        torch.testing.assert_close(run.model_state[name].double(), wanted, rtol=1e-6, atol=1e-7)
        assert not torch.equal(run.model_state[name], plain.model_state[name])


@pytest.mark.slow
def test_a_resumed_run_finds_the_start(train_run: TrainRun, shapes_overrides: list[str], tmp_path: Path) -> None:
    undisturbed = train_run(*WISE, "checkpoint.alpha=[0.3,0.6]")
    typed = [*shapes_overrides, *WISE, "checkpoint.alpha=[0.3,0.6]"]
    killed_run(typed, tmp_path / "killed", 3, "after")
    run = resumed(typed, tmp_path / "killed")
    assert run.summary["alphas"] == undisturbed.summary["alphas"]
    assert all(torch.equal(value, undisturbed.model_state[name]) for name, value in run.model_state.items())


def test_without_validation_rows(shapes: Shapes, shapes_overrides: list[str], tmp_path: Path) -> None:
    """One alpha is taken of the last step; a list has nothing to be chosen by."""
    pd.read_csv(shapes.rows).query("split != 'val'").to_csv(tmp_path / "rows.csv", index=False)
    typed = [*shapes_overrides, f"data.path={tmp_path / 'rows.csv'}", f"data.root={shapes.rows.parent}", *WISE]
    typed += ["trainer.max_epochs=1"]
    assert train(compose("train", [*typed, "checkpoint.alpha=0.3"]), tmp_path / "run") == 0
    summary = Run(tmp_path / "run").summary
    assert (summary["alpha"], summary["best_step"]) == (0.3, None)
    assert "alphas" not in summary
    with pytest.raises(UserError, match="no validation rows to choose by"):
        train(compose("train", [*typed, "checkpoint.alpha=[0.3,0.6]"]), tmp_path / "other")


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["checkpoint.alpha=0.5"], "checkpoint.alpha: changes nothing, because checkpoint.use=best"),
        ([*WISE, "checkpoint.alpha=1.5"], "checkpoint.alpha: 1.5 is out of bounds"),
        ([*WISE, "checkpoint.alpha=1"], "Type checkpoint.use=best"),
        ([*WISE, "checkpoint.alpha=[0.5,1.5]"], "give different numbers from 0 to 1"),
        ([*WISE, "checkpoint.alpha=[]"], "give different numbers from 0 to 1"),
        ([*WISE, "checkpoint.alpha=[0.5,0.5]"], "give different numbers from 0 to 1"),
        (
            ["checkpoint.alpha_tolerance=0.01"],
            "alpha_tolerance: changes nothing, because checkpoint.use=best",
        ),
        (
            [*WISE, "checkpoint.alpha_tolerance=0.01"],
            "alpha_tolerance: changes nothing with one alpha (null)",
        ),
        (
            [*WISE, "checkpoint.alpha=0.3", "checkpoint.alpha_tolerance=0.01"],
            "changes nothing with one alpha (0.3). Type checkpoint.alpha=[0.25,0.5,0.75]",
        ),
        (
            [*WISE, "checkpoint.alpha=[0.3,0.6]", "checkpoint.alpha_tolerance=-1"],
            "checkpoint.alpha_tolerance: -1.0 is out of bounds",
        ),
        ([*WISE, "tune=prompt"], "wise_ft is not defined for tune/image_encoder=prompt"),
        ([*WISE, "tune/text_encoder=prefix"], "wise_ft is not defined for tune/text_encoder=prefix"),
        ([*WISE, "tune=lora", "tune.image_encoder.dora=true"], "tune/image_encoder=lora with dora"),
        ([*WISE, "tune=lora", "tune.dora=true"], "tune/image_encoder=lora with dora"),
        (
            [*WISE, "checkpoint.alpha=[0,1]", "data.columns.split=null", "data.fractions={train:0.9,val:0,test:0.1}"],
            "a list needs validation rows to choose by, but data.fractions.val is 0",
        ),
    ],
)
def test_what_is_refused(typed: list[str], said: str, shapes_overrides: list[str]) -> None:
    with pytest.raises(UserError) as error:
        compose("train", [*shapes_overrides, *typed])
    assert any(said in message for message in error.value.messages), error.value.messages


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("trainer", ["ddp", "fsdp"])
def test_two_ranks_find_the_model_of_one(trainer: str, shapes_overrides: list[str], tmp_path: Path) -> None:
    sgd = ["optim=sgd", "optim.lr=0.05", "optim.head_lr=0.05", "model.dropout=0", "trainer.precision=32-true"]
    typed = [*shapes_overrides, *sgd, "checkpoint.use=wise_ft", "checkpoint.alpha=[0.3,0.6]", "checkpoint.monitor=loss"]
    one, two = of_one_and_two_ranks(typed, trainer, tmp_path)
    assert one.summary["alpha"] == two.summary["alpha"]
    assert max(float((one.model_state[n] - two.model_state[n]).abs().max()) for n in one.model_state) <= 1e-5


@pytest.mark.slow
def test_of_a_pair_fusion_and_head_go_back_too(shapes: Shapes, tmp_path: Path) -> None:
    """Projections and temperature, or a classifier that starts from prompts; stand-ins stay as tuned."""
    pair = make_pair(tmp_path / "pair", captions())
    kept = [one for one in shapes.overrides if not one.startswith("model.")]
    typed = [
        *kept,
        "data.limit=48",
        "trainer.max_epochs=1",
        f"model.pair={pair}",
        "optim.lr=1e-3",
        "modality_report=false",
    ]
    for number, task in enumerate((["task=contrastive"], ["model/fusion=pretrained", "task.head_init=prompts"])):
        runs = []
        for use in ("best", "wise_ft"):
            path = tmp_path / f"{number}{use}"
            assert train(compose("train", [*typed, *task, f"checkpoint.use={use}"]), path) == 0
            runs.append(Run(path).model_state)
        tuned, half = runs
        moved = {name.partition(".")[0] for name in tuned if not torch.equal(tuned[name], half[name])}
        assert moved == {"image_encoder", "text_encoder", "fusion", "head"}, task
