"""Every tuning method on every kind of encoder: what one step changes, that it learns, and that it comes back."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
import torch
from runs import Run, TrainRun
from torch import nn

import mmft
from mmft import build
from mmft.config.compose import compose
from mmft.errors import UserError
from mmft.models.encoder import Encoder
from mmft.models.image_encoder import build_image_encoder
from mmft.models.text_encoder import build_text_encoder
from mmft.tuning.quantize import dequantize

IMAGES = ("timm_vit", "hf_dinov2", "timm_convnext", "timm_resnet")
TEXTS = ("bert",)
LRS = (3e-2, 5e-3, 1e-3, 1e-1)
METHODS = {
    "full": [],
    "last_n": [],
    "first_frozen": [],
    "gradual": ["{tower}.schedule={{0:1,1:-1}}"],
    "pattern": ["{tower}.pattern=weight$"],
    "bitfit": [],
    "norms": [],
    "lora": ["tune.targets=all"],
    "lora_8bit": ["tune.targets=all"],
    "lora_4bit": ["tune.targets=all"],
    "loha": ["tune.targets=all"],
    "ia3": ["tune.targets=all"],
}
NOT_LINEAR = {
    (m, k) for m in ("lora_8bit", "lora_4bit") for k in ("timm_resnet", "timm_convnext")
}  # nothing but convolutions
# The loss falls to half, but for the shifts of a random ResNet's BatchNorms, all that it has of biases.
ENOUGH = {("bitfit", "timm_resnet"): 0.85}
QUICK = {"timm_vit": ("full", "last_n", "lora", "lora_8bit", "ia3"), "bert": ("bitfit", "norms", "lora", "lora_4bit")}
CELLS = [
    pytest.param(method, kind, marks=[] if kind in QUICK and method in QUICK[kind] else pytest.mark.slow)
    for method in METHODS
    for kind in (*IMAGES, *TEXTS)
    if (method, kind) not in NOT_LINEAR
]

Tower = Callable[..., tuple[Encoder, set[str]]]


@pytest.fixture
def tower(image_encoder_folder: Any, text_encoder_folder: Any, shapes_overrides: list[str]) -> Tower:
    """`tower(method, kind, "key=value")`: an encoder under the method, and the names that are trained."""

    def make(method: str, kind: str, *more: str) -> tuple[Encoder, set[str]]:
        torch.manual_seed(0)
        encoder: Encoder
        if kind in IMAGES:
            part, encoder = (
                "image_encoder",
                build_image_encoder(str(image_encoder_folder(kind)), 32, "auto", True),
            )
        else:
            part, encoder = "text_encoder", build_text_encoder(str(text_encoder_folder(kind)), 16, "auto", True)
        typed = [f"tune/{part}={method}", *(m.format(tower=f"tune.{part}") for m in (*METHODS[method], *more))]
        config = compose("train", [*(o for o in shapes_overrides if not o.startswith("optim.lr")), *typed]).config
        chosen = build.build_methods(config.tune)[part]
        chosen.apply(encoder)
        names = chosen.trained(encoder)
        for name, parameter in encoder.named_parameters():
            parameter.requires_grad_(name in names)
        for module in encoder.modules():
            if isinstance(module, nn.BatchNorm2d):  # timm begins with zeros, behind which nothing gets a gradient
                nn.init.constant_(module.weight, 0.5)
        return encoder, names

    return make


def batch(kind: str) -> tuple[torch.Tensor, ...]:
    """Six inputs and their classes."""
    torch.manual_seed(1)
    if kind in IMAGES:
        # Stripes of two colours each: of noise alone a random encoder's features are all the same.
        colours = torch.randint(0, 256, (6, 3, 1, 2), dtype=torch.uint8)
        return colours.repeat(1, 1, 32, 16), torch.tensor([0, 1, 2, 0, 1, 2])
    ids = torch.randint(5, 40, (6, 8))
    return ids, torch.ones_like(ids, dtype=torch.bool), torch.tensor([0, 1, 2, 0, 1, 2])


def bytes_of(encoder: nn.Module) -> dict[str, bytes]:
    return {name: v.detach().numpy().tobytes() for name, v in (*encoder.named_parameters(), *encoder.named_buffers())}


def shapes_of(model: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in model.state_dict().items()}


def accuracy(run: Run, shapes: Any) -> float:
    """Of the finished model, read from its folder, on the rows that the run was tested on."""
    rows = pd.read_csv(shapes.rows).query("split == 'test'")
    found = mmft.load(run.path).predict(rows, shapes.rows.parent)
    return float((found.prediction == rows.label).mean())


def learn(encoder: Encoder, kind: str, lr: float, steps: int) -> list[float]:
    """The loss before each step, under a random head that is frozen."""
    *inputs, classes = batch(kind)
    head = nn.Linear(encoder.pooled_width, 3, bias=False).requires_grad_(False)
    nn.init.normal_(head.weight, generator=torch.Generator().manual_seed(2))
    optimizer = torch.optim.Adam([p for p in encoder.parameters() if p.requires_grad], lr)
    losses = []
    for _ in range(steps):
        loss = nn.functional.cross_entropy(head(encoder(*inputs).pooled), classes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if loss < losses[0] / 2:
            break
    return losses


@pytest.mark.parametrize(("method", "kind"), CELLS)
def test_one_step_changes_what_is_planned_and_it_learns(method: str, kind: str, tower: Tower) -> None:
    encoder, names = tower(method, kind)
    encoder.live = frozenset()  # the base in eval mode: no running statistics
    encoder.train()
    for _ in range(2):  # LoRA's A has a gradient of zeros while B is zero
        before = bytes_of(encoder)
        learn(encoder, kind, 1e-3, 1)
        gradients = {name: parameter.grad for name, parameter in encoder.named_parameters()}
        assert {name for name, gradient in gradients.items() if gradient is not None} == names
        moved = {name for name, gradient in gradients.items() if gradient is not None and gradient.any()}
        assert {name for name, value in bytes_of(encoder).items() if value != before[name]} == moved
    ends = []
    for lr in LRS:
        losses = learn(copy.deepcopy(encoder), kind, lr, 200)
        ends.append(losses[-1] / losses[0])
        if ends[-1] < ENOUGH.get((method, kind), 0.5):
            return
    raise AssertionError(f"the loss falls to {ends} of what it was, at learning rates {LRS}")


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*IMAGES, *TEXTS])
@pytest.mark.parametrize("method", ["lora", "loha", "ia3"])
def test_what_is_added_changes_nothing_at_first(method: str, kind: str, tower: Tower) -> None:
    encoder, _ = tower(method, kind)
    plain, _ = tower("full", kind)
    *inputs, _ = batch(kind)
    with torch.no_grad():
        assert torch.allclose(plain.eval()(*inputs).pooled, encoder.eval()(*inputs).pooled, atol=1e-5)


@pytest.mark.parametrize(("method", "kind"), sorted(NOT_LINEAR))
def test_what_cannot_be_quantized_is_refused(method: str, kind: str, tower: Tower) -> None:
    with pytest.raises(UserError, match=r"tune\.image_encoder: .* has no linear layers to quantize"):
        tower(method, kind)


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


@pytest.mark.parametrize(("method", "share"), [("lora_8bit", 0.27), ("lora_4bit", 0.16)])
def test_quantized_weights_are_small_and_stay(method: str, share: float, train_run: TrainRun) -> None:
    run = train_run(f"tune={method}", "optim.weight_decay=0.5")
    quantized = run.summary["quantized"]
    # Scales are four bytes to 32 or 128 inputs in these narrow towers; in wide ones they are nothing.
    assert quantized["bytes"] <= (share + 0.125) * quantized["float32_bytes"]


def test_dropout_of_the_base_is_off_and_loras_own_is_on(tower: Tower) -> None:
    encoder, _ = tower("lora", "bert", "tune.dropout=0.5")
    encoder.live = frozenset()
    encoder.train()
    dropped = {name for name, m in encoder.named_modules() if isinstance(m, nn.Dropout) and m.training}
    assert dropped
    assert all("lora_dropout" in name for name in dropped)


def test_targets_mean_the_same_everywhere(tower: Tower) -> None:
    for kind, attention in (("timm_vit", {"qkv", "proj"}), ("hf_dinov2", None), ("bert", None)):
        _, names = tower("lora", kind, "tune.targets=attention")
        layers = {name.split(".lora_")[0].rpartition(".")[2] for name in names}
        _, mlp_names = tower("lora", kind, "tune.targets=mlp")
        _, all_names = tower("lora", kind, "tune.targets=all")
        assert attention is None or layers == attention
        assert names.isdisjoint(mlp_names)
        assert names | mlp_names == all_names
        assert not any("patch" in name or "pooler" in name for name in all_names)
