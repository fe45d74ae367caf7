"""Gradient checkpointing: the same numbers with fewer activations kept."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from command import fork_mmft
from runs import Run, TrainRun, same_weights
from torch import Tensor
from torch.utils._pytree import tree_map_only

from mmft import build
from mmft.batch import Batch
from mmft.config.compose import compose
from mmft.models.layers import block_modules
from mmft.models.recompute import Recomputed, recompute_blocks
from mmft.models.vision_language_model import VisionLanguageModel, set_dropout

ROWS, KEY = 6, "trainer.gradient_checkpointing=true"


def model_of(overrides: list[str], *folders: Path) -> VisionLanguageModel:
    """In float64, with dropout everywhere."""
    names = [f"model.{'image' if i == 0 else 'text'}_encoder.name={folder}" for i, folder in enumerate(folders)]
    model = build.build_model(compose("train", [*overrides, *names]).config.model, 5, 0).double()
    set_dropout(model, 0.3)
    return model


def batch_of(size: int = 32) -> Batch:
    random = torch.Generator().manual_seed(1)
    present = torch.ones(ROWS, dtype=torch.bool)
    return Batch(
        pixel_values=torch.randint(0, 256, (ROWS, 3, size, size), dtype=torch.uint8, generator=random),
        input_ids=torch.randint(1, 20, (ROWS, 16), generator=random),
        attention_mask=torch.ones(ROWS, 16, dtype=torch.bool),
        image_present=present,
        text_present=present,
        row=torch.arange(ROWS),
        weight=torch.ones(ROWS, dtype=torch.float64),
        target=None,
    )


class Step:
    """A forward and a backward pass: the bytes of activations that it kept, gradients and buffers."""

    def __init__(self, model: VisionLanguageModel, batch: Batch) -> None:
        kept: dict[int, Tensor] = {}  # by the storage's address; held, so that no address comes twice
        parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}

        def pack(tensor: Tensor) -> Tensor:
            if tensor.untyped_storage().data_ptr() not in parameters:
                kept[tensor.untyped_storage().data_ptr()] = tensor.detach()
            return tensor

        def enter(_: Any, *given: Any) -> None:  # a block's inputs are held where the hooks below do not see it
            tree_map_only(Tensor, pack, given)

        for encoder in (model.image_encoder, model.text_encoder):
            for block in block_modules(encoder.backbone):
                block.register_forward_pre_hook(enter, with_kwargs=True)
        torch.manual_seed(3)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = (model(batch).logits ** 2).sum()
        self.bytes = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
        loss.backward()
        self.after = float(torch.rand(()))  # of the generator, which goes on as if nothing had been replayed
        self.gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        self.buffers = dict(model.named_buffers())


@pytest.mark.parametrize(
    ("image", "text"),
    [
        ("timm_vit", "bert"),
        ("timm_convnext", "modernbert"),
        ("hf_dinov2", "deberta_v2"),
        ("timm_resnet", "clip"),
        ("hf_siglip", "roberta"),
    ],
)
def test_the_same_gradients_of_fewer_activations(
    image: str, text: str, shapes_overrides: list[str], image_encoder_folder: Any, text_encoder_folder: Any
) -> None:
    """Dropout is replayed, and a BatchNorm counts each batch once."""
    plain = model_of(shapes_overrides, image_encoder_folder(image), text_encoder_folder(text))
    model = copy.deepcopy(plain)
    count = recompute_blocks(model)
    assert count == recompute_blocks(model)  # once is enough
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert [name for name, _ in model.named_modules()] == [name for name, _ in plain.named_modules()]
    assert len(block_modules(model.image_encoder.backbone)) + len(block_modules(model.text_encoder.backbone)) == count
    batch = batch_of()
    expected, found = Step(plain, batch), Step(model, batch)
    assert found.gradients.keys() == expected.gradients.keys()
    total = torch.stack([g.norm() for g in expected.gradients.values()]).norm()
    for name, gradient in expected.gradients.items():
        assert float((found.gradients[name] - gradient).abs().max()) <= 1e-12 * float(total), name
    for name, buffer in expected.buffers.items():
        assert torch.equal(found.buffers[name], buffer), name
    assert found.after == expected.after
    assert found.bytes < 0.75 * expected.bytes


def test_the_more_blocks_the_more_is_saved(shapes_overrides: list[str]) -> None:
    """What is kept of a block is little beside what is in it."""
    import timm

    model = model_of(shapes_overrides)
    model.image_encoder.backbone = timm.create_model(
        "vit_tiny_patch16_224", embed_dim=32, depth=12, num_heads=2, patch_size=8, img_size=32, num_classes=0
    ).double()
    plain = copy.deepcopy(model)
    recompute_blocks(model)
    batch = batch_of()
    batch.text_present = torch.zeros(ROWS, dtype=torch.bool)
    assert Step(model, batch).bytes < 0.2 * Step(plain, batch).bytes


def test_a_encoder_without_blocks_is_told(shapes_overrides: list[str], caplog: pytest.LogCaptureFixture) -> None:
    model = model_of(shapes_overrides)
    model.image_encoder.backbone = torch.nn.Conv2d(3, 32, 8, 8)
    with caplog.at_level("WARNING"):
        assert recompute_blocks(model) == len(block_modules(model.text_encoder.backbone)) > 0
    assert "model.image_encoder has no blocks" in caplog.text


def test_evaluation_is_as_before_and_a_copy_has_its_own_blocks(
    shapes_overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import mmft.models.recompute as module

    model = model_of(shapes_overrides)
    recompute_blocks(model)
    other = copy.deepcopy(model)  # as a sharded model is copied for its evaluation
    with torch.no_grad():
        for p in other.parameters():
            p.zero_()
    monkeypatch.setattr(module, "checkpoint", None)  # nobody asks for it
    batch = batch_of()
    with torch.inference_mode():
        first, zeros = model.eval()(batch).logits, other.eval()(batch).logits
    assert bool(first.any())
    assert not bool(zeros.any())
    blocks = block_modules(other.text_encoder.backbone)
    assert all(isinstance(block, Recomputed) for block in blocks)
    assert {type(block).__name__ for block in blocks} == {"BertLayer"}


@pytest.mark.parametrize("tune", ["full", "lora", "lora_8bit", "gradual"])
def test_a_run_is_the_same_bit_for_bit(tune: str, train_run: TrainRun) -> None:
    """In micro-batches; what is frozen is in eval mode beside what is trained; the config is read where it builds."""
    typed = ["data.micro_batch_size=4", "model.dropout=0.2", "trainer.accelerator=cpu", f"tune={tune}"]
    plain, run = train_run(*typed), train_run(*typed, KEY)
    assert same_weights(run, plain)
    assert run.summary["test"] == plain.summary["test"]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("trainer", ["ddp", "fsdp"])
def test_on_two_ranks(trainer: str, shapes_overrides: list[str], tmp_path: Path) -> None:
    typed = [*shapes_overrides, f"trainer={trainer}", "trainer.accelerator=cpu", "trainer.devices=2"]
    runs = []
    for name, more in (("plain", []), ("recomputed", [KEY])):
        (tmp_path / name).mkdir()
        fork_mmft("train", *typed, *more, cwd=tmp_path / name)
        (path,) = (tmp_path / name / "runs" / "shapes").iterdir()
        runs.append(Run(path))
    assert same_weights(*runs)
    assert runs[0].summary["test"] == runs[1].summary["test"]
