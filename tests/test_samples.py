"""The generated sample is what it says, and the same every time."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
import transformers as hf
from make_shapes import LABELS, Shapes, make_rows, make_shapes
from safetensors.torch import load_file
from tiny_encoders import IMAGE_KINDS, TEXT_KINDS


def contents(folder: Path) -> dict[str, str]:
    """Hash of every file below `folder`."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_same_arguments_give_the_same_bytes(shapes: Shapes, tmp_path: Path) -> None:
    assert contents(make_shapes(tmp_path).folder) == contents(shapes.folder)
    assert contents(make_rows(tmp_path / "other", seed=1).parent)["rows.csv"] != contents(shapes.folder)["rows.csv"]


def test_neither_modality_tells_the_label(shapes: Shapes) -> None:
    rows = list(csv.DictReader(shapes.rows.open()))
    assert [sum(row["split"] == name for row in rows) for name in ("train", "val", "test")] == [180, 30, 30]
    assert {row["label"] for row in rows} == set(LABELS)
    texts = {colour: {r["label"] for r in rows if colour in r["text"]} for colour in ("red", "green", "blue")}
    assert texts == {colour: {f"{colour} disc", f"{colour} cross"} for colour in texts}
    assert len({(row["group"], row["split"]) for row in rows}) == len({row["group"] for row in rows})


@pytest.mark.parametrize("kind", IMAGE_KINDS)
def test_image_encoders_load_as_pretrained(kind: str, image_encoder_folder: Callable[..., Path]) -> None:
    folder = image_encoder_folder(kind)
    if kind.startswith("timm"):
        model = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0)
    else:
        model = hf.AutoModel.from_pretrained(folder)
    _assert_same(model, folder)


@pytest.mark.parametrize("kind", TEXT_KINDS)
def test_text_encoders_load_as_pretrained(kind: str, text_encoder_folder: Callable[..., Path]) -> None:
    folder = text_encoder_folder(kind)
    tokenizer = hf.AutoTokenizer.from_pretrained(folder)
    encoded = tokenizer(["something red here", "red"], padding=True, return_tensors="pt")
    assert tokenizer.unk_token_id == tokenizer.eos_token_id or tokenizer.unk_token_id not in encoded["input_ids"]
    model = hf.AutoModel.from_pretrained(folder)
    _assert_same(model, folder)
    hidden = model(encoded["input_ids"], attention_mask=encoded["attention_mask"]).last_hidden_state
    assert hidden.shape == (*encoded["input_ids"].shape, 32)


def _assert_same(model: torch.nn.Module, folder: Path) -> None:
    """Every saved tensor is in the model; transformers may call it otherwise there."""
    saved, loaded = load_file(folder / "model.safetensors"), model.state_dict()
    assert len(saved) > 10
    assert Counter(map(_hash, saved.values())) <= Counter(map(_hash, loaded.values()))


def _hash(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()
