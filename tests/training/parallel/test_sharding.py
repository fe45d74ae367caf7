"""`trainer=fsdp`: what it refuses, what it shards, and whole runs. A step's arithmetic is in test_two_ranks.py."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import forked
import pytest
import torch
from command import fork_mmft
from make_shapes import Shapes
from runs import Run, same_weights

from mmft import build
from mmft.config.compose import compose
from mmft.config.schema.root import TrainConfig
from mmft.errors import UserError
from mmft.models.layers import block_modules, blocks
from mmft.training.hardware import choose_hardware
from mmft.training.parallel.sharding import Shards, _skeleton

FSDP = ["trainer=fsdp", "trainer.accelerator=cpu", "trainer.devices=2"]


def config_of(overrides: list[str], *typed: str) -> TrainConfig:
    config: TrainConfig = compose("train", [*overrides, *typed]).config
    return config


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["trainer.devices=1"], r"trainer.strategy: fsdp shards the model .*Type trainer.devices=2, or trainer=auto"),
        (["trainer.devices=2", "trainer.precision=64-true"], r"Type trainer.precision=32-true, or trainer=ddp"),
    ],
)
def test_what_cannot_work_is_refused_when_the_config_is_read(
    typed: list[str], said: str, shapes_overrides: list[str]
) -> None:
    with pytest.raises(UserError, match=said):
        config_of(shapes_overrides, "trainer=fsdp", *typed)


def test_all_gpus_are_one_process(shapes_overrides: list[str]) -> None:
    config = config_of(shapes_overrides, "trainer=fsdp", "trainer.accelerator=cpu")
    assert config.trainer.devices is None
    with pytest.raises(UserError, match=r"but there is only one\. .*trainer.accelerator=cpu trainer.devices=2"):
        choose_hardware(config.trainer)


def test_a_trained_batchnorm_is_refused(shapes_overrides: list[str], image_encoder_folder: Any) -> None:
    config = config_of(shapes_overrides, f"model.image_encoder.name={image_encoder_folder('timm_resnet')}")
    model = build.build_model(config.model, 6, 0)
    mesh: Any = None
    with pytest.raises(UserError, match=r"timm_resnet.* has a BatchNorm.*Type trainer=ddp, or tune/image_encoder=free"):
        Shards(model, mesh)


@pytest.mark.parametrize(
    ("kind", "count"), [("timm_vit", 2), ("timm_convnext", 4), ("timm_resnet", 3), ("hf_dinov2", 2), ("hf_clip", 2)]
)
def test_the_units_are_the_blocks(kind: str, count: int, image_encoder_folder: Any) -> None:
    """Those that are one module: a ResNet's first stage has the max pooling in front."""
    from mmft.models.image_encoder import build_image_encoder

    backbone = build_image_encoder(str(image_encoder_folder(kind)), 32, "auto", pretrained=True).backbone
    units = block_modules(backbone)
    assert len(units) == count <= len(blocks(backbone))
    counted = [id(p) for unit in units for p in unit.parameters()]
    assert len(counted) == len(set(counted))


def test_the_skeleton_has_no_weights_and_the_same_buffers(shapes_overrides: list[str]) -> None:
    model = build.build_model(config_of(shapes_overrides).model, 6, 0)
    bones = _skeleton(model)
    assert all(p.is_meta for p in bones.parameters())
    assert bones.state_dict().keys() == model.state_dict().keys()
    assert bones.text_encoder.tokenizer is model.text_encoder.tokenizer
    for name, value in model.named_buffers():
        assert torch.equal(value, dict(bones.named_buffers())[name])


@pytest.fixture
def typed(shapes: Shapes) -> list[str]:
    return [
        *shapes.overrides,
        "callbacks.progress=none",
        "modality_report=false",
        "data.limit=48",
        "trainer.max_epochs=6",
    ]


def run_of(folder: Path) -> Run:
    """The only run below `folder`."""
    (path,) = (folder / "runs" / "shapes").iterdir()
    return Run(path)


def stopped(typed: list[str], folder: Path) -> Run:
    """A run that SIGTERM ends some steps after it began."""
    process = forked.command(["train", *typed], folder / "printed.txt", cwd=folder)
    end = time.monotonic() + 200
    while time.monotonic() < end and process.poll() is None:
        if any("train/loss" in path.read_text() for path in folder.glob("runs/*/*/metrics.csv")):
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 143, (folder / "printed.txt").read_text()
    return run_of(folder)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_resumed_run_is_the_undisturbed_one_bit_for_bit(typed: list[str], tmp_path: Path) -> None:
    """With dropout, in the precision that this machine has; the finished model is as always."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    typed = [*typed, *FSDP, "trainer.precision=auto"]
    fork_mmft("train", *typed, cwd=tmp_path / "a")
    undisturbed = run_of(tmp_path / "a")
    run = stopped(typed, tmp_path / "b")
    assert run.summary["optimizer_steps"] < undisturbed.summary["optimizer_steps"] == 18
    fork_mmft("train", *typed, f"resume={run.path}", cwd=tmp_path / "b")
    assert run.summary["status"] == "completed"
    assert len(run.summary["resumed_from"]) == 1
    assert same_weights(run, undisturbed)
    assert run.metrics == undisturbed.metrics
    assert run.summary["test"] == undisturbed.summary["test"]
    out = fork_mmft("predict", f"run={run.path}", f"data.path={typed[1].partition('=')[2]}", "out=-").stdout
    assert len(out.splitlines()) == 241


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("more", [[], ["tune=head_only", "optim.lr=null"], ["tune=lora"]])
def test_a_run_that_began_sharded_goes_on_in_one_process(more: list[str], typed: list[str], tmp_path: Path) -> None:
    """Checkpoints say nothing of shards: the end is that of a run in one process, to rounding."""
    sgd = ["optim=sgd", "optim.lr=0.05", "optim.head_lr=0.05", "model.dropout=0", "trainer.precision=32-true", *more]
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    fork_mmft("train", *typed, *sgd, "trainer.accelerator=cpu", cwd=tmp_path / "a")
    one = run_of(tmp_path / "a")
    run = stopped([*typed, *sgd, *FSDP], tmp_path / "b")
    fork_mmft(
        "train", *typed, *sgd, f"resume={run.path}", "trainer=auto", "trainer.accelerator=cpu", cwd=tmp_path / "b"
    )
    assert run.summary["status"] == "completed"
    a, b = one.model_state, run.model_state
    assert a.keys() == b.keys()
    assert max(float((a[name] - b[name]).abs().max()) for name in a) <= 1e-5
