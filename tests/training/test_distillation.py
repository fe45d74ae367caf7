"""Feature distillation: its loss and gradient against a formula written out, and whole runs."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from make_shapes import Shapes
from runs import TrainRun, killed_run, of_one_and_two_ranks, resumed, same_weights
from torch import Tensor

from mmft import build
from mmft.batch import Batch
from mmft.cli.main import main
from mmft.config.compose import compose
from mmft.data.splitting.splits import load_splits
from mmft.errors import UserError

WEIGHT = 0.7
DISTILLED = ["model.auxiliary.distillation_weight=0.7"]


class Case:
    """A step in float64 of a model that has moved from its start; rows are weighted, some lack a modality."""

    def __init__(self, overrides: list[str], *typed: str, lacking: bool = True) -> None:
        options = ["data.batch_size=32", "model.dropout=0", "optim.clip_norm=null", *DISTILLED, *typed]
        config = compose("train", [*overrides, *options]).config
        splits = load_splits(config.data, 0)
        self.task = build.build_task(config.task)
        self.task.fit(splits["train"].table.labels(splits["train"].rows))
        self.model: Any = build.build_model(config.model, self.task.make_head, seed=0)
        self.start = copy.deepcopy(self.model).double().eval()
        build.add_auxiliary(config, self.model, self.task)
        distillation = build.build_distillation(config, self.model)
        plan = build.build_plan(config, self.model)
        self.module = build.build_module(config, self.model, self.task, plan, distillation)
        self.model.double()
        torch.manual_seed(1)
        for group in plan.groups:
            for parameter in group.parameters.values():
                parameter.data += 0.05 * torch.randn_like(parameter)
        self.batch: Batch = next(iter(build.build_data(config, splits, self.model, self.task).train_dataloader()))
        self.batch.weight = torch.linspace(0.1, 2.0, len(self.batch))
        if lacking:
            self.batch.image_present[::5] = False
            self.batch.text_present[1::7] = False

    def gradients(self, micro: int | None) -> tuple[dict[str, Tensor], Tensor]:
        self.module.micro_batch_size = micro
        optimizer = torch.optim.SGD(self.model.parameters(), lr=0.0)
        losses, _, _ = self.module.update(self.batch, optimizer, 0, Tensor.backward)
        return self._found(), losses

    def written_out(self) -> tuple[dict[str, Tensor], list[Tensor]]:
        self.model.zero_grad()
        self.model.count_stand_ins()
        outputs, start = self.model(self.batch), self.start(self.batch)
        terms = [self.task.loss_sum(outputs, self.batch) / self.task.normaliser(self.batch)]
        for modality in ("image", "text"):
            weight = self.batch.weight.double() * getattr(self.batch, f"{modality}_present")
            now, then = getattr(outputs, modality), getattr(start, modality).detach()
            there = weight > 0
            distance = (now - then)[there].square().sum(1) / then[there].square().sum(1)
            terms.append((distance * weight[there]).sum() / weight.sum())
        (terms[0] + WEIGHT * (terms[1] + terms[2])).backward()
        return self._found(), terms

    def _found(self) -> dict[str, Tensor]:
        return {name: p.grad.clone() for name, p in self.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    "typed", [[], ["tune=lora", "optim.lr=null"], ["task=contrastive"], ["tune=prompt", "optim.lr=null"]]
)
@pytest.mark.parametrize("micro", [None, 7])
def test_loss_and_gradient(typed: list[str], micro: int | None, shapes_overrides: list[str]) -> None:
    """Of any micro-batches; the start of LoRA and of prompts is the encoder without them."""
    case = Case(shapes_overrides, *typed, lacking="task=contrastive" not in typed)
    assert list(case.module.objective.terms) == ["task", "distillation/image", "distillation/text"]
    found, losses = case.gradients(micro)
    wanted, terms = case.written_out()
    assert min(float(term.detach()) for term in terms) > 1e-5
    torch.testing.assert_close(losses.double(), torch.stack(terms).detach(), rtol=1e-9, atol=1e-12)
    assert found.keys() == wanted.keys()
    norm = torch.stack([value.norm() for value in wanted.values()]).norm()
    for name, value in wanted.items():
        assert float((found[name] - value).norm()) <= 1e-9 * float(norm), name


def test_at_the_start_there_is_no_distance(train_run: TrainRun) -> None:
    """In the first step of a run; then there is, and it is less than without."""
    typed = ["trainer.log_every_steps=1", "model.dropout=0", "optim.lr=1e-2"]
    run = train_run(*typed, "model.auxiliary.distillation_weight=100")
    table = pd.read_csv(run.path / "metrics.csv").dropna(subset=["train/loss"])
    free = train_run(*typed, "model.auxiliary.distillation_weight=1e-9")
    loose = pd.read_csv(free.path / "metrics.csv").dropna(subset=["train/loss"])
    for modality in ("image", "text"):
        name = f"train/loss/distillation/{modality}"
        assert table[name].iloc[0] == pytest.approx(0, abs=1e-9)
        assert 0 < table[name].iloc[-1] < 0.5 * loose[name].iloc[-1]
    total = table["train/loss/task"] + 100 * (
        table["train/loss/distillation/image"] + table["train/loss/distillation/text"]
    )
    assert table["train/loss"].tolist() == pytest.approx(total.tolist(), rel=1e-4)
    assert run.model_state.keys() == free.model_state.keys() == train_run(*typed).model_state.keys()


def test_only_what_is_trained_and_has_an_input_is_distilled(shapes_overrides: list[str]) -> None:
    def terms(*typed: str) -> list[str]:
        config = compose("train", [*shapes_overrides, *DISTILLED, *typed]).config
        distillation = build.build_distillation(config, build.build_model(config.model, 6, 0))
        assert distillation is not None
        return list(distillation.terms)

    assert terms("tune/text_encoder=freeze") == ["distillation/image"]
    assert terms("data.columns.image=null") == ["distillation/text"]
    assert terms("model.text_encoder.pretrained=false") == ["distillation/image"]
    with pytest.raises(UserError, match="no encoder that is trained has a pretrained start"):
        terms("model.text_encoder.pretrained=false", "tune/image_encoder=freeze")


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["tune=head_only", "optim.lr=null"], "changes nothing, because both encoders are frozen"),
        (["task=matching", "data.columns.label=null"], "does not go with task=matching"),
        (["model.auxiliary.distillation_weight=-1"], "is out of bounds"),
    ],
)
def test_what_is_refused(typed: list[str], said: str, shapes_overrides: list[str]) -> None:
    with pytest.raises(UserError) as error:
        compose("train", [*shapes_overrides, *DISTILLED, *typed])
    assert any("distillation_weight: " in text and said in text for text in error.value.messages), error.value.messages


def test_check_tries_it(shapes: Shapes, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", *shapes.overrides, *DISTILLED, "data.limit=48"]) == 0
    assert "Training would work." in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("task", ["classification", "contrastive"])
def test_resume_is_exact(task: str, train_run: TrainRun, shapes_overrides: list[str], tmp_path: Path) -> None:
    typed = [*DISTILLED, f"task={task}", "checkpoint.every_steps=1"]
    undisturbed = train_run(*typed)
    killed_run([*shapes_overrides, *typed], tmp_path / "killed", 4, "after")
    run = resumed([*shapes_overrides, *typed], tmp_path / "killed")
    assert same_weights(run, undisturbed)
    assert run.metrics == undisturbed.metrics


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("trainer", "task"), [("ddp", "classification"), ("fsdp", "classification"), ("ddp", "contrastive")]
)
def test_two_ranks_train_as_one(trainer: str, task: str, shapes_overrides: list[str], tmp_path: Path) -> None:
    sgd = ["optim=sgd", "optim.lr=0.05", "optim.head_lr=0.05", "model.dropout=0", "trainer.precision=32-true"]
    typed = [*shapes_overrides, *DISTILLED, *sgd, f"task={task}", "checkpoint.use=last", "trainer.log_every_steps=1"]
    one, two = of_one_and_two_ranks(typed, trainer, tmp_path)
    assert max(float((one.model_state[n] - two.model_state[n]).abs().max()) for n in one.model_state) <= 1e-5
    said = [
        pd.read_csv(run.path / "metrics.csv")["train/loss/distillation/image"].dropna().tolist() for run in (one, two)
    ]
    assert said[0] == pytest.approx(said[1], rel=1e-3, abs=1e-9)
