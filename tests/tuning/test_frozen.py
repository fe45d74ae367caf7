"""What is frozen stays as it is, in many architectures: weights and running statistics, in training and validation."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import timm
import torch
from runs import TrainRun, killed_run, resumed
from torch import Tensor, nn

from mmft import build
from mmft.batch import Batch
from mmft.config.compose import compose
from mmft.models.vision_language_model import VisionLanguageModel
from mmft.tuning.plan import TuningPlan

# Architecture and a size that it takes; 32 of them, of every family.
FAST = {"vit_tiny_patch16_224": 64, "convnext_atto": 64, "resnet10t": 64, "mobilenetv3_small_050": 64}
SLOW = {
    "efficientnet_b0": 64,
    "efficientvit_b0": 64,
    "regnetx_002": 64,
    "vgg11_bn": 64,
    "densenet121": 64,
    "mobilenetv4_conv_small_035": 64,
    "ghostnet_050": 64,
    "mambaout_femto": 64,
    "xception41": 64,
    "inception_v3": 128,
    "gmlp_ti16_224": 224,
    "mixer_s32_224": 224,
    "hiera_tiny_224": 224,
    "levit_128s": 224,
    "volo_d1_224": 224,
    "cait_xxs24_224": 64,
    "xcit_nano_12_p16_224": 64,
    "pit_ti_224": 64,
    "swin_tiny_patch4_window7_224": 64,
    "nfnet_l0": 64,
    "repvgg_a0": 64,
    "visformer_tiny": 224,
    "deit_tiny_distilled_patch16_224": 64,
    "convmixer_768_32": 64,
    "dla34": 64,
    "maxvit_pico_rw_256": 256,
    "hgnet_tiny": 64,
    "mvitv2_tiny": 64,
}
TABLE = [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]


def digests(model: nn.Module) -> dict[str, str]:
    """SHA-256 of every parameter and buffer."""
    own = (*model.named_parameters(), *model.named_buffers())
    return {name: hashlib.sha256(value.detach().numpy().tobytes()).hexdigest() for name, value in own}


def batch(size: int) -> Batch:
    rows = 4
    there = torch.ones(rows, dtype=torch.bool)
    ids = torch.randint(5, 40, (rows, 8))
    pixels = torch.randint(0, 256, (rows, 3, size, size), dtype=torch.uint8)
    return Batch(
        pixel_values=pixels,
        input_ids=ids,
        attention_mask=torch.ones_like(ids, dtype=torch.bool),
        image_present=there,
        text_present=there,
        row=torch.arange(rows),
        weight=torch.ones(rows),
        target=None,
    )


def train(model: VisionLanguageModel, plan: TuningPlan, size: int) -> Tensor:
    """Two steps, an evaluation, and two more, with momentum and decay."""
    optimizer = torch.optim.SGD(plan.optimizer_groups(), lr=1e-3, momentum=0.9, weight_decay=0.1)  # type: ignore[arg-type]
    loss = torch.zeros(())
    for _ in range(2):
        model.train()
        for _ in range(2):
            loss = model(batch(size)).logits.square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            model.eval()(batch(size))
    return loss


@pytest.mark.parametrize("method", ["freeze", "last_n"])
@pytest.mark.parametrize("name", TABLE)
def test_what_is_frozen_stays(name: str, method: str, shapes_overrides: list[str], tmp_path: Path) -> None:
    size = (FAST | SLOW)[name]
    own = timm.get_pretrained_cfg(name)
    assert own is not None
    config = {"architecture": name, "pretrained_cfg": {"input_size": own.input_size}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    encoder = [f"model.image_encoder.{key}" for key in (f"name={tmp_path}", f"image_size={size}", "pretrained=false")]
    typed = [*shapes_overrides, *encoder, f"tune/image_encoder={method}"]
    chosen = compose("train", typed).config
    model = build.build_model(chosen.model, 3, 0)
    plan = build.build_plan(chosen, model)
    before = digests(model.image_encoder)
    loss = train(model, plan, size)
    assert loss.isfinite()
    changed = {key for key, value in digests(model.image_encoder).items() if value != before[key]}
    trained = {key.removeprefix("image_encoder.") for key in plan.names if key.startswith("image_encoder.")}
    moving = {key.removeprefix("image_encoder.") for key in plan.saved_names(model)}  # with statistics of live layers
    assert changed <= (trained | moving)
    if method == "freeze":
        assert changed == trained == set()
    else:
        layers = model.image_encoder.layers()
        assert changed & trained
        assert {layers[key] for key in trained} <= {model.image_encoder.top_layer - 1, model.image_encoder.top_layer}
        assert any(layers[key] < model.image_encoder.top_layer - 1 for key in layers)


@pytest.mark.slow
@pytest.mark.parametrize("tune", [["tune=last_n"], ["tune=gradual", "tune.schedule={0:1,1:-1}"], ["tune=lora"]])
def test_a_resumed_run_has_the_same_frozen(
    tune: list[str], train_run: TrainRun, shapes_overrides: list[str], tmp_path: Path
) -> None:
    more = [*tune, "optim.weight_decay=0.5"]
    undisturbed = train_run(*more)
    killed_run([*shapes_overrides, *more], tmp_path / "killed", 3, "after")
    run = resumed([*shapes_overrides, *more], tmp_path / "killed")
    assert run.metrics == undisturbed.metrics
    assert {k: v.numpy().tobytes() for k, v in run.model_state.items()} == {
        k: v.numpy().tobytes() for k, v in undisturbed.model_state.items()
    }
