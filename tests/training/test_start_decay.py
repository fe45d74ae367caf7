"""Decay toward the start (L2-SP): the arithmetic, and whole runs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from runs import Run, TrainRun, killed_run, of_one_and_two_ranks, resumed, same_weights
from torch import nn

from mmft import build
from mmft.config.compose import compose
from mmft.errors import UserError
from mmft.models.vision_language_model import part_of
from mmft.training.start_decay import StartDecay
from mmft.tuning.plan import Group

DECAY = ["optim.start_decay=2", "optim.lr=1e-2"]
LAST = ["checkpoint.use=last", "trainer.log_every_steps=1"]


def test_it_is_adamw_s_decay_seen_from_the_start() -> None:
    """AdamW with weight decay on the distance itself, in float64, with another group that keeps its own decay."""
    torch.manual_seed(0)
    start, target = torch.randn(2, 50, dtype=torch.float64)
    pulled, shifted = nn.Parameter(start.clone()), nn.Parameter(torch.zeros_like(start))
    other, same = (nn.Parameter(start.clone()) for _ in range(2))
    groups = [
        Group("a", "image_encoder", "full", "all", 0.1, 0.0, start_decay=0.7, parameters={"a": pulled}),
        Group("b", "head", "full", "all", 0.1, 0.3, parameters={"b": other}),
    ]
    decay = StartDecay(SimpleNamespace(groups=groups))  # type: ignore[arg-type]
    ours = torch.optim.AdamW(
        [{"params": [pulled], "weight_decay": 0.0}, {"params": [other], "weight_decay": 0.3}], lr=0.1
    )
    plain = torch.optim.AdamW(
        [{"params": [shifted], "weight_decay": 0.7}, {"params": [same], "weight_decay": 0.3}], lr=0.1
    )
    for step in range(20):
        rate = 0.1 / (1 + step)
        for optimizer in (ours, plain):
            optimizer.zero_grad()
            for group in optimizer.param_groups:
                group["lr"] = rate
        for weight in (pulled, shifted + start, other, same):
            ((weight - target) ** 4).sum().backward()
        decay.step(ours)
        ours.step()
        plain.step()
    torch.testing.assert_close(pulled - start, shifted.detach(), rtol=1e-12, atol=1e-12)
    assert torch.equal(other, same)
    assert float(decay.penalty()) == pytest.approx(0.35 * float((pulled - start).detach().square().sum()), rel=1e-12)
    before = pulled.detach().clone()
    ours.zero_grad()  # as after an overflow in float16
    decay.step(ours)
    assert torch.equal(pulled, before)


def distance(run: Run, overrides: list[str]) -> float:
    """The squared distance of the encoders' weights from their start."""
    config = compose("train", overrides).config
    start = build.build_model(config.model, 6, config.seed).state_dict()
    return sum(
        float((value.double() - start[name].double()).square().sum())
        for name, value in run.model_state.items()
        if part_of(name).endswith("encoder")
    )


def test_a_run_stays_near_its_start(train_run: TrainRun, shapes_overrides: list[str]) -> None:
    plain, run = train_run(*DECAY[1:], *LAST), train_run(*DECAY, *LAST)
    near, far = distance(run, shapes_overrides), distance(plain, shapes_overrides)
    assert near < 0.99 * far
    told = pd.read_csv(run.path / "metrics.csv")["train/loss/start_decay"].dropna()
    assert len(told) == 6
    assert float(told.iloc[-1]) == pytest.approx(2 / 2 * near, rel=1e-4)
    assert "train/loss/start_decay" not in pd.read_csv(plain.path / "metrics.csv")
    tuning = pd.read_csv(run.path / "tuning.csv").set_index("group")
    assert dict(tuning["weight_decay"]) == {
        "image_encoder": 0,
        "text_encoder": 0,
        "fusion": 0.01,
        "fusion/no_decay": 0,
        "head": 0.01,
        "head/no_decay": 0,
    }


@pytest.mark.slow
def test_micro_batches_change_nothing(train_run: TrainRun) -> None:
    typed = [*DECAY, *LAST, "trainer.precision=64-true", "model.dropout=0", "optim=sgd"]
    whole, parts = train_run(*typed), train_run(*typed, "data.micro_batch_size=3")
    for name, value in whole.model_state.items():
        torch.testing.assert_close(parts.model_state[name], value, rtol=1e-9, atol=1e-12)


def test_only_pretrained_encoders_have_a_start(shapes_overrides: list[str]) -> None:
    """Of last_n the trained layers; an encoder of random weights decays as ever."""
    random = ["tune=last_n", "model.text_encoder.pretrained=false"]
    config: Any = compose("train", [*shapes_overrides, *DECAY, *random]).config
    plan = build.build_plan(config, build.build_model(config.model, 6, 0))
    assert {
        group.name: (group.start_decay, group.weight_decay) for group in plan.groups if "encoder" in group.part
    } == {
        "image_encoder": (2, 0),
        "text_encoder": (0, 0.01),
        "text_encoder/no_decay": (0, 0),
    }
    nothing = [*random, "model.image_encoder.pretrained=false"]
    config = compose("train", [*shapes_overrides, *DECAY, *nothing]).config
    with pytest.raises(UserError, match=r"optim.start_decay: no encoder that is trained has a pretrained start"):
        build.build_plan(config, build.build_model(config.model, 6, 0))


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["tune=lora"], "optim.start_decay: is for an encoder's own weights, and tune/image_encoder=lora adds others"),
        (["tune/text_encoder=prefix"], "tune/text_encoder=prefix adds others"),
        (["tune=head_only", "optim.lr=null"], "optim.start_decay: changes nothing, because both encoders are frozen"),
        (["optim.start_decay=-1"], "optim.start_decay: -1.0 is out of bounds"),
    ],
)
def test_what_is_refused(typed: list[str], said: str, shapes_overrides: list[str]) -> None:
    with pytest.raises(UserError) as error:
        compose("train", [*shapes_overrides, *DECAY, *typed])
    assert any(said in message for message in error.value.messages), error.value.messages


@pytest.mark.slow
def test_resume_is_exact(train_run: TrainRun, shapes_overrides: list[str], tmp_path: Path) -> None:
    typed = [*DECAY, "checkpoint.every_steps=1"]
    undisturbed = train_run(*typed)
    killed_run([*shapes_overrides, *typed], tmp_path / "killed", 4, "after")
    run = resumed([*shapes_overrides, *typed], tmp_path / "killed")
    assert same_weights(run, undisturbed)
    assert run.metrics == undisturbed.metrics


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("trainer", ["ddp", "fsdp"])
def test_two_ranks_train_as_one(trainer: str, shapes_overrides: list[str], tmp_path: Path) -> None:
    sgd = ["optim=sgd", "optim.head_lr=0.05", "model.dropout=0", "trainer.precision=32-true"]
    typed = [*shapes_overrides, *DECAY, *sgd, *LAST, "optim.lr=0.05"]
    one, two = of_one_and_two_ranks(typed, trainer, tmp_path)
    assert max(float((one.model_state[n] - two.model_state[n]).abs().max()) for n in one.model_state) <= 1e-5
    said = [pd.read_csv(run.path / "metrics.csv")["train/loss/start_decay"].dropna().tolist() for run in (one, two)]
    assert said[0] == pytest.approx(said[1], rel=1e-3)
