"""What is frozen stays as it is, in many architectures: weights and running statistics, in training and validation."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from make_shapes import captions
from runs import TrainRun, killed_run, resumed
from tiny_transformers import IMAGE_SIZE, IMAGES, REFUSED, TEXTS, write_image_encoder, write_text_encoder
from torch import Tensor, nn

from mmft import build
from mmft.batch import Batch
from mmft.commands.train import train
from mmft.config.compose import compose
from mmft.errors import UserError
from mmft.models.vision_language_model import VisionLanguageModel
from mmft.training.callbacks.checkpointing import Checkpointing
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

# Transformers' architectures by encoder; of 46 of them under two methods, two cells are fast.
QUICK = {("image_encoder", "resnet", "last_n"), ("text_encoder", "distilbert", "freeze")}
CELLS = [
    pytest.param(*cell, marks=[] if cell in QUICK else pytest.mark.slow)
    for encoder, kinds in (("image_encoder", IMAGES), ("text_encoder", TEXTS))
    for kind in kinds
    for cell in ((encoder, kind, "freeze"), (encoder, kind, "last_n"))
]


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


def take_steps(model: VisionLanguageModel, plan: TuningPlan, size: int) -> Tensor:
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
    loss = take_steps(model, plan, size)
    assert loss.isfinite()
    check_frozen(model, plan, "image_encoder", method, before)


def check_frozen(model: VisionLanguageModel, plan: TuningPlan, part: str, method: str, before: dict[str, str]) -> None:
    """Of a part, what `freeze` or `last_n` trains has changed since `before`, and nothing else."""
    encoder: Any = getattr(model, part)
    changed = {key for key, value in digests(encoder).items() if value != before[key]}
    trained = {key.removeprefix(f"{part}.") for key in plan.names if key.startswith(f"{part}.")}
    moving = {key.removeprefix(f"{part}.") for key in plan.saved_names(model)}  # with statistics of live layers
    assert changed <= (trained | moving)
    if method == "freeze":
        assert changed == trained == set()
    else:
        layers = encoder.layers()
        assert changed & trained
        assert {layers[key] for key in trained} <= {encoder.top_layer - 1, encoder.top_layer}
        assert any(layers[key] < encoder.top_layer - 1 for key in layers)


class Cut(Exception):
    """Ends a run between two epochs."""


@pytest.mark.parametrize(("encoder", "kind", "method"), CELLS)
def test_what_is_frozen_stays_in_a_run_that_is_cut_and_resumed(
    encoder: str, kind: str, method: str, shapes_overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real runs of transformers' architectures: two epochs, a validation after each, a resume between them."""
    is_image = encoder == "image_encoder"
    folder = tmp_path / "encoder"
    write_image_encoder(kind, folder) if is_image else write_text_encoder(kind, captions(), folder)
    typed = [*shapes_overrides, f"model.{encoder}.name={folder}", f"tune/{encoder}={method}", "optim.weight_decay=0.5"]
    typed += [f"model.image_encoder.image_size={IMAGE_SIZE}"] if is_image else []
    seen: list[tuple[VisionLanguageModel, TuningPlan, dict[str, str]]] = []
    build_plan, save_last = build.build_plan, Checkpointing.save_last

    def remember(config: Any, model: VisionLanguageModel, changed: Any) -> TuningPlan:
        seen.append((model, build_plan(config, model, changed), digests(getattr(model, encoder))))
        return seen[-1][1]

    def save_and_end(self: Checkpointing, trainer: Any) -> None:
        save_last(self, trainer)
        raise Cut

    monkeypatch.setattr(build, "build_plan", remember)
    with monkeypatch.context() as cut:
        cut.setattr(Checkpointing, "save_last", save_and_end)
        with pytest.raises(Cut):
            train(compose("train", typed), tmp_path / "run")
    run = resumed(typed, tmp_path / "run")
    assert run.summary["resumed_from"] == [run.summary["optimizer_steps"] // 2]
    first, second = seen
    assert first[2] == second[2]
    for model, plan, before in seen:
        check_frozen(model, plan, encoder, method, before)


@pytest.mark.slow
@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused(kind: str, shapes_overrides: list[str], tmp_path: Path) -> None:
    encoder, make, message = REFUSED[kind]
    make().save_pretrained(tmp_path / "encoder")
    with pytest.raises(UserError, match=rf"^model\.{encoder}\.name=.*: {message}"):
        train(compose("train", [*shapes_overrides, f"model.{encoder}.name={tmp_path / 'encoder'}"]), tmp_path / "run")


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
