"""The plan: every parameter in one group or frozen, rates by layer, decay by type."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import TrainRun
from torch import nn

from mmft import build
from mmft.config.compose import compose
from mmft.models.vision_language_model import VisionLanguageModel
from mmft.tuning.plan import TuningPlan
from mmft.tuning.table import write_plan


def planned(overrides: list[str], *more: str) -> tuple[VisionLanguageModel, TuningPlan]:
    config = compose("train", [*overrides, *more]).config
    model = build.build_model(config.model, 6, seed=0)
    return model, build.build_plan(config, model)


@pytest.mark.parametrize("tune", ["tune=full", "tune=head_only", "tune/image_encoder=freeze", "optim.layer_decay=0.5"])
def test_every_parameter_is_in_exactly_one_group_or_frozen(shapes_overrides: list[str], tune: str) -> None:
    overrides = [o for o in shapes_overrides if not o.startswith("optim.lr")]
    extra = ["optim.lr=null"] if tune == "tune=head_only" else []
    model, plan = planned(overrides, tune, *extra)
    listed = [name for group in plan.groups for name in group.parameters]
    assert len(listed) == len(set(listed))
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (name in listed), name
    assert plan.counts()["trainable"] == sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_decay_is_by_type(shapes_overrides: list[str]) -> None:
    model, plan = planned(shapes_overrides)
    decayed = {name for g in plan.groups if g.weight_decay for name in g.parameters}
    linear = {f"{n}.weight" for n, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))}
    assert decayed == linear
    for name in ("pos_embed", "cls_token"):
        assert f"image_encoder.backbone.{name}" not in decayed
    assert not any("embeddings" in name or "norm" in name.lower() for name in decayed)


def test_layer_decay_goes_down_from_the_top(shapes_overrides: list[str]) -> None:
    _, plan = planned(shapes_overrides, "optim.layer_decay=0.5", "optim.lr=8e-4")
    rates = {g.name: g.lr for g in plan.groups}
    for part in ("image_encoder", "text_encoder"):
        assert rates[f"{part}/layer_02"] == pytest.approx(4e-4)
        assert rates[f"{part}/layer_01"] == pytest.approx(2e-4)
        assert rates[f"{part}/layer_00/no_decay"] == pytest.approx(1e-4)
    assert rates["image_encoder/layer_03/no_decay"] == pytest.approx(8e-4)
    assert rates["head"] == rates["fusion"]


def test_rates_of_one_encoder_and_the_methods_default(shapes_overrides: list[str]) -> None:
    _, plan = planned(shapes_overrides, "tune.image_encoder.lr=3e-4", "optim.lr=null", "optim.head_lr=0.02")
    rates = {g.name: g.lr for g in plan.groups}
    assert rates["image_encoder"] == 3e-4
    assert rates["text_encoder"] == 5e-5
    assert rates["head"] == 0.02


def test_the_table_has_every_group_and_every_frozen_part(shapes_overrides: list[str], tmp_path: Path) -> None:
    _, plan = planned(shapes_overrides, "tune/text_encoder=freeze")
    write_plan(plan, tmp_path / "tuning.csv")
    lines = list(csv.DictReader((tmp_path / "tuning.csv").open()))
    frozen = [line for line in lines if line["part"] == "text_encoder"]
    assert [line["method"] for line in frozen] == ["freeze"]
    assert frozen[0]["trained"] == "0"
    assert sum(int(line["trained"]) for line in lines) == plan.counts()["trainable"]


def _hash(state: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        digest.update(name.encode() + value.numpy().tobytes())
    return digest.hexdigest()


def test_a_frozen_encoder_is_unchanged_by_training_buffers_too(
    train_run: TrainRun, image_encoder_folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashes: list[str] = []
    build_plan = build.build_plan

    def remember(config: Any, model: VisionLanguageModel, changed: Any) -> TuningPlan:
        hashes.append(_hash(model.image_encoder.state_dict()))
        remembered.append(model)
        return build_plan(config, model, changed)

    remembered: list[VisionLanguageModel] = []
    monkeypatch.setattr(build, "build_plan", remember)
    run = train_run(
        "tune/image_encoder=freeze",
        f"model.image_encoder.name={image_encoder_folder('timm_resnet')}",  # BatchNorm has buffers
        "optim.weight_decay=0.5",
    )
    hashes.append(_hash(remembered[0].image_encoder.state_dict()))
    assert hashes[0] == hashes[1]
    assert run.summary["parameters"]["image_encoder"]["trainable"] == 0
    assert not any(name.startswith("image_encoder") for name in run.model_state)
