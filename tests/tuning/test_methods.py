"""Every tuning method on every kind of encoder: what one step changes, that it learns, and that it comes back."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from runs import Run, TrainRun
from torch import nn
from tuned_encoders import Fit, features, hashes, learn

import mmft
from mmft import build
from mmft.batch import Batch
from mmft.config.compose import compose
from mmft.errors import UserError
from mmft.tuning.quantize import _beside_its_weight, dequantize

IMAGES = ("timm_vit", "hf_dinov2", "timm_convnext", "timm_resnet")
TEXTS = ("bert",)
LRS = (3e-2, 5e-3, 1e-3, 1e-1)
METHODS = {
    "full": [],
    "last_n": [],
    "first_frozen": [],
    "gradual": ["schedule={0:1,1:-1}"],
    "pattern": ["pattern=weight$"],
    "bitfit": [],
    "norms": [],
    "lora": ["targets=all"],
    "lora_8bit": ["targets=all"],
    "lora_4bit": ["targets=all"],
    "loha": ["targets=all"],
    "ia3": ["targets=all"],
}
NOT_LINEAR = {
    (m, k) for m in ("lora_8bit", "lora_4bit") for k in ("timm_resnet", "timm_convnext")
}  # nothing but convolutions
QUICK = {"timm_vit": ("full", "last_n", "lora", "lora_8bit", "ia3"), "bert": ("bitfit", "norms", "lora", "lora_4bit")}
CELLS = [
    pytest.param(method, kind, marks=[] if kind in QUICK and method in QUICK[kind] else pytest.mark.slow)
    for method in METHODS
    for kind in (*IMAGES, *TEXTS)
    if (method, kind) not in NOT_LINEAR
]


def shapes_of(model: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in model.state_dict().items()}


def accuracy(run: Run, shapes: Any) -> float:
    """Of the finished model, read from its folder, on the rows that the run was tested on."""
    rows = pd.read_csv(shapes.rows).query("split == 'test'")
    found = mmft.load(run.path).predict(rows, shapes.rows.parent)
    return float((found.prediction == rows.label).mean())


@pytest.mark.parametrize(("method", "kind"), CELLS)
def test_one_step_changes_what_is_planned_and_it_learns(method: str, kind: str, fit: Fit) -> None:
    encoder, chosen = fit(kind, method, *METHODS[method])
    names = chosen.trained(encoder)
    for _ in range(2):  # LoRA's A has a gradient of zeros while B is zero
        before = hashes(encoder)
        learn(encoder, kind, 1e-3, 0)  # one step
        gradients = {name: parameter.grad for name, parameter in encoder.named_parameters()}
        assert {name for name, gradient in gradients.items() if gradient is not None} == names
        moved = {name for name, gradient in gradients.items() if gradient is not None and gradient.any()}
        assert {name for name, value in hashes(encoder).items() if value != before[name]} == moved
    ends = []
    for lr in LRS:
        losses = learn(copy.deepcopy(encoder), kind, lr, 200)
        ends.append(losses[-1] / losses[0])
        if ends[-1] < 0.5:
            return
    raise AssertionError(f"the loss falls to {ends} of what it was, at learning rates {LRS}")


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*IMAGES, *TEXTS])
@pytest.mark.parametrize("method", ["lora", "loha", "ia3"])
def test_what_is_added_changes_nothing_at_first(method: str, kind: str, fit: Fit) -> None:
    encoder, _ = fit(kind, method, *METHODS[method])
    plain, _ = fit(kind, "full")
    assert torch.allclose(features(plain, kind), features(encoder, kind), atol=1e-5)


@pytest.mark.parametrize(("method", "kind"), sorted(NOT_LINEAR))
def test_what_cannot_be_quantized_is_refused(method: str, kind: str, fit: Fit) -> None:
    with pytest.raises(UserError, match=r"tune\.image_encoder: .* has no linear layers to quantize"):
        fit(kind, method, *METHODS[method])


def test_a_run_with_a_typed_schedule_comes_back(train_run: TrainRun, shapes: Any) -> None:
    """JSON, which the finished model's config is kept in, has only texts as keys."""
    epochs = "callbacks.gradient_accumulation.schedule={0:8,1:24}"
    run = train_run("tune=gradual", "tune.schedule={0:1,1:-1}", epochs)
    assert mmft.load(run.path).saved.config.tune.schedule == {0: 1, 1: -1}
    assert accuracy(run, shapes) == pytest.approx(run.summary["test"]["accuracy"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "method", ["lora", "lora_8bit", *(pytest.param(m, marks=pytest.mark.slow) for m in ("lora_4bit", "loha", "ia3"))]
)
def test_a_run_comes_back_and_merges(method: str, train_run: TrainRun, shapes: Any) -> None:
    more = ["tune.targets=all", "optim.lr=1e-2", "trainer.max_epochs=3", "data.limit=null"]
    run = train_run(f"tune={method}", *more)
    state = run.model_state
    assert not any("base_layer" in name for name in state)
    size = sum(value.numel() * value.element_size() for value in state.values())
    trained = 4 * run.summary["parameters"]["trainable"]
    assert size <= 1.02 * trained
    assert accuracy(run, shapes) == pytest.approx(run.summary["test"]["accuracy"])
    rows = [{"image": None, "text": "a red circle"}, {"image": None, "text": "a green square"}]
    model = mmft.load(run.path)
    found = model.predict(rows, shapes.rows.parent)
    assert found == mmft.load(run.path).predict(rows, shapes.rows.parent)
    for part in ("image_encoder", "text_encoder"):
        if method.endswith("bit"):
            dequantize(getattr(model.model, part))
    exact = model.predict(rows, shapes.rows.parent)
    model.saved.merge()
    plain = build.build_model(model.saved.config.model, 6, 0)
    assert shapes_of(model.model) == shapes_of(plain)

    for one, other in zip(exact, model.predict(rows, shapes.rows.parent), strict=True):
        assert one["score"] == pytest.approx(other["score"], abs=1e-5)
    again = train_run(f"init={run.path}", f"tune={method}", *more)  # on top of what was merged
    assert accuracy(again, shapes) == pytest.approx(again.summary["test"]["accuracy"])


def test_scales_follow_a_weight_to_its_device() -> None:
    """As after `model.to(...)` on a GPU; here the other device has no numbers."""
    scales, elsewhere = torch.ones(3), torch.empty(3, 4, dtype=torch.int8, device="meta")
    for moved in ("weight", "state"):
        keepers = {name: SimpleNamespace(CB=None, SCB=None) for name in ("weight", "state")}
        keepers[moved].CB = keepers[moved].SCB = scales
        keepers["weight"].device, keepers["weight"].data = elsewhere.device, elsewhere
        _beside_its_weight(SimpleNamespace(**keepers))
        assert keepers[moved].CB is elsewhere
        assert keepers[moved].SCB.device == elsewhere.device


@pytest.mark.parametrize(("method", "share"), [("lora_8bit", 0.27), ("lora_4bit", 0.16)])
def test_quantized_weights_are_small_and_stay(method: str, share: float, train_run: TrainRun) -> None:
    run = train_run(f"tune={method}", "optim.weight_decay=0.5")
    quantized = run.summary["quantized"]
    # Scales are four bytes to 32 or 128 inputs in these narrow encoders; in wide ones they are nothing.
    assert quantized["bytes"] <= (share + 0.125) * quantized["float32_bytes"]


def test_dropout_of_the_base_is_off_and_loras_own_is_on(fit: Fit) -> None:
    encoder, _ = fit("bert", "lora", "targets=all", "dropout=0.5")
    dropped = {name for name, m in encoder.named_modules() if isinstance(m, nn.Dropout) and m.training}
    assert dropped
    assert all("lora_dropout" in name for name in dropped)


def test_targets_mean_the_same_everywhere(fit: Fit) -> None:
    for kind, attention in (("timm_vit", {"qkv", "proj"}), ("hf_dinov2", None), ("bert", None)):
        fitted = (fit(kind, "lora", f"targets={targets}") for targets in ("attention", "mlp", "all"))
        names, mlp_names, all_names = (method.trained(encoder) for encoder, method in fitted)
        layers = {name.split(".lora_")[0].rpartition(".")[2] for name in names}
        assert attention is None or layers == attention
        assert names.isdisjoint(mlp_names)
        assert names | mlp_names == all_names
        assert not any("patch" in name or "pooler" in name for name in all_names)


@pytest.mark.parametrize("method", ["bitfit", "norms"])
def test_gradients_reach_encoders_of_which_no_layer_is_trained_wholly(method: str, shapes: Any) -> None:
    config = compose("train", [*shapes.overrides, f"tune={method}"]).config
    model = build.build_model(config.model, 3, seed=0)
    plan = build.build_plan(config, model)
    ids, there = torch.arange(16).view(2, 8), torch.ones(2, dtype=torch.bool)
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    batch = Batch(images, ids, ids >= 0, there, there, torch.arange(2), torch.ones(2))
    model.count_stand_ins()
    model.train()(batch).logits.square().sum().backward()
    assert not [name for name in plan.names if model.get_parameter(name).grad is None]
