"""Runs over a language model whose file is in 16 bits end exactly as over the same model in float32."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from generative_rows import typed_for_generation
from language_models import in_16_bits
from make_shapes import Shapes
from runs import Run
from safetensors.torch import load_file

import mmft
from mmft import build
from mmft.commands.export import export
from mmft.commands.train import train
from mmft.config.compose import compose
from mmft.models.frozen_layers import NarrowLinear
from mmft.run import saved_model
from mmft.run.saved_model import load_model
from mmft.tuning.quantize import is_quantized

Folder = Callable[..., Path]
METHODS = {
    "lora": ["tune.text_encoder.dropout=0.1"],
    "lora_of_the_head's_layers": ["tune.text_encoder.targets=all", "tune.text_encoder.norms=true"],
    "dora": ["tune.text_encoder.dora=true"],
    "lora_8bit": [],
    "lora_4bit": [],
    "loha": [],
    "ia3": [],
    "freeze": [],
    "norms": [],
    "prompt": [],
    "prefix": [],
    "adapters": [],
}
QUICKLY = ("lora", "lora_8bit")


@pytest.fixture
def folder(language_model_folder: Folder, tmp_path: Path) -> Path:
    """A language model in bfloat16."""
    return in_16_bits(language_model_folder("llama"), tmp_path / "model")


def trained(typed: list[str], path: Path) -> Run:
    assert train(compose("train", typed), path) == 0
    return Run(path)


def without_16_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on, everything is loaded in float32, and quantized afterwards."""
    monkeypatch.setattr(build, "frozen_layers", lambda _: {})
    monkeypatch.setattr(saved_model, "frozen_layers", lambda _: {})


@pytest.mark.parametrize(
    "method", [one if one in QUICKLY else pytest.param(one, marks=pytest.mark.slow) for one in METHODS]
)
def test_training_and_prediction(
    method: str, folder: Path, shapes: Shapes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = {"dora": "lora"}.get(method, method.partition("_of_")[0])
    typed = [*typed_for_generation(shapes, folder), f"tune/text_encoder={name}", *METHODS[method]]
    narrow = trained([*typed, "trainer.max_epochs=1"], tmp_path / "narrow")
    rows = pd.read_csv(shapes.rows).head(4)[["image", "text"]]
    listed = mmft.load(narrow.path).predict(rows, root=shapes.rows.parent)
    base = load_model(narrow.path / "model").model.text_encoder
    assert is_quantized(base) if name in ("lora_8bit", "lora_4bit") else _in_16_bits(base)
    assert {p.dtype for p in base.parameters() if p.requires_grad and p.dtype != torch.bfloat16} <= {torch.float32}
    without_16_bits(monkeypatch)
    wide = trained([*typed, "trainer.max_epochs=1"], tmp_path / "wide")
    assert not _in_16_bits(load_model(narrow.path / "model").model.text_encoder)
    assert narrow.weights.keys() == wide.weights.keys()
    assert all(torch.equal(value, wide.weights[key]) for key, value in narrow.weights.items())
    assert {key: value.dtype for key, value in narrow.model_state.items()} == {
        key: value.dtype for key, value in wide.model_state.items()
    }
    assert narrow.summary["test"] == wide.summary["test"]
    assert narrow.summary["parameters"] == wide.summary["parameters"]
    pd.testing.assert_frame_equal(listed, mmft.load(wide.path).predict(rows, root=shapes.rows.parent))


def _in_16_bits(module: Any) -> bool:
    return any(isinstance(layer, NarrowLinear) for layer in module.modules())


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "lora_8bit", "freeze"])
def test_an_export_is_in_float32(
    method: str, folder: Path, shapes: Shapes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = [*typed_for_generation(shapes, folder), f"tune/text_encoder={method}", "trainer.max_epochs=1"]
    run = trained(typed, tmp_path / "run")
    for name in ("narrow", "wide"):
        assert export(compose("export", [f"run={run.path}", f"out={tmp_path / name}"])) == 0
        without_16_bits(monkeypatch)
    one, other = (load_file(tmp_path / name / "text_encoder" / "model.safetensors") for name in ("narrow", "wide"))
    assert one.keys() == other.keys()
    assert {value.dtype for value in one.values()} == {torch.float32}
    assert all(torch.equal(value, other[key]) for key, value in one.items())


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "lora_8bit"])
def test_weights_of_another_run_are_not_rounded(method: str, folder: Path, shapes: Shapes, tmp_path: Path) -> None:
    typed = [*typed_for_generation(shapes, folder), "trainer.max_epochs=1"]
    first = trained([*typed, "tune/text_encoder=full", "optim.lr=1e-3"], tmp_path / "first")
    again = [*typed, f"tune/text_encoder={method}", "optim.lr=1e-9"]
    second = load_model(trained([*again, f"init={first.path}"], tmp_path / "second").path / "model").model.text_encoder
    assert not _in_16_bits(second)
    name = "text_encoder.backbone.model.layers.0.mlp.up_proj.weight"
    own = first.model_state[name]
    assert not torch.equal(own, own.bfloat16().float())
    if method == "lora":
        assert torch.equal(second.get_parameter(name.partition(".")[2]), own)
    frozen = trained([*typed, "tune/text_encoder=freeze"], tmp_path / "frozen")
    third = trained([*again, f"init={frozen.path}"], tmp_path / "third")
    assert all("lora" in name for name in third.model_state if name.startswith("text_encoder"))
