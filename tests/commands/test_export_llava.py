"""`mmft export format=transformers` of a projected model: a LLaVA that plain transformers loads and writes with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import transformers as hf
from generative_rows import typed_for_generation
from make_shapes import Shapes
from mostly_slow import mostly_slow
from PIL import Image
from runs import Run, TrainRun

import mmft
from mmft.commands.export import export
from mmft.config.compose import compose
from mmft.errors import UserError

Folder = Callable[..., Path]
LLAVA = ["model.fusion.tokens=all", "tune/text_encoder=lora", "optim.lr=1e-2"]
CASES = {
    "hf_clip qwen3 -1": [],
    "hf_siglip llama -2": ["task.prompt='Look: {image} {text}'", "model.fusion.layers=linear"],
    "hf_dinov2 llama 1": ["model.image_encoder.image_size=48", "tune/image_encoder=lora", "task.chat_template=none"],
    "hf_dinov2 qwen3 -1": ["tune/image_encoder=full", "tune/text_encoder=full", "task.num_beams=2"],
    "hf_clip llama -2": ["tune/text_encoder=full", "data.resize=crop"],
    "timm_vit llama -1": ["model.image_encoder.image_size=48"],
}


def exported(run: Run, *typed: str) -> Path:
    assert export(compose("export", [f"run={run.path}", "format=transformers", *typed])) == 0
    return run.path / "export"


def typed_for(case: str, shapes: Shapes, image_folder: Folder, language_folder: Folder) -> list[str]:
    image, text, layer = case.split()
    return [
        *typed_for_generation(shapes, language_folder(text, chat=True)),
        *LLAVA,
        f"model.image_encoder.name={image_folder(image)}",
        f"model.image_encoder.feature_layer={layer}",
    ]


def parts_of(said: str) -> list[dict[str, str]]:
    before, after = said.split("<image>")
    texts = [{"type": "text", "text": before}] if before else []
    return [*texts, {"type": "image"}, {"type": "text", "text": after}]


def of_transformers(
    out: Path, images: list[Path], said: list[str], in_chat: bool, vocabulary: int
) -> tuple[list[str], list[float]]:
    """Texts for each image, written by plain transformers in one padded batch, and their mean log-probabilities."""
    model: Any = hf.LlavaForConditionalGeneration.from_pretrained(out).eval()
    processor: Any = hf.AutoProcessor.from_pretrained(out)
    assert type(processor).__name__ == "LlavaProcessor"
    pictures = [Image.open(path) for path in images]
    if in_chat:
        turns = [[{"role": "user", "content": parts_of(text)}] for text in said]
        said = [processor.apply_chat_template(turn, add_generation_prompt=True) for turn in turns]
    options = {"add_special_tokens": False} if in_chat else {}
    inputs = processor(images=pictures, text=said, padding=True, return_tensors="pt", **options)
    written = model.generate(**inputs)[:, inputs["input_ids"].shape[1] :]  # (B, T)
    whole = torch.cat([inputs["input_ids"], written], dim=1)  # (B, S)
    behind = torch.ones_like(written)
    mask = torch.cat([inputs["attention_mask"], behind], dim=1)
    with torch.no_grad():
        logits = model(input_ids=whole, attention_mask=mask, pixel_values=inputs["pixel_values"]).logits
    of_written = logits[:, -written.shape[1] - 1 : -1, :vocabulary].log_softmax(-1)
    chosen = of_written.gather(2, written[..., None]).squeeze(2)
    end = written == model.generation_config.eos_token_id
    real = end.cumsum(1) - end.long() == 0
    scores = (chosen * real).sum(1) / real.sum(1)
    return [text.strip() for text in processor.batch_decode(written, skip_special_tokens=True)], scores.tolist()


@pytest.mark.parametrize("case", mostly_slow(CASES, "hf_clip qwen3 -1"))
def test_plain_transformers_writes_what_the_run_predicts(
    case: str, train_run: TrainRun, shapes: Shapes, image_encoder_folder: Folder, language_model_folder: Folder
) -> None:
    typed = typed_for(case, shapes, image_encoder_folder, language_model_folder)
    run = train_run(*typed, *CASES[case])
    out, model = exported(run), mmft.load(run.path)
    table = pd.read_csv(shapes.rows).head(6)
    rows = table[["image", "text"]].to_dict("records")
    predicted = model.predict(rows, root=shapes.rows.parent)
    asked = "Look: <image> {}" if "Look" in str(CASES[case]) else "<image>{} here"
    said = [asked.format(row["text"]) for row in rows]
    in_chat = "task.chat_template=none" not in CASES[case]
    images = [shapes.rows.parent / row["image"] for row in rows]
    vocabulary = model.model.text_encoder.head.out_features
    texts, scores = of_transformers(out, images, said, in_chat, vocabulary)
    assert texts == [row["prediction"] for row in predicted]
    assert scores == pytest.approx([row["score"] for row in predicted], abs=1e-5)
    assert len(set(scores)) == len(rows)  # images and texts are read
    card = (out / "README.md").read_text()
    assert "LlavaForConditionalGeneration" in card
    assert str(image_encoder_folder(case.split(maxsplit=1)[0])) not in card


NEEDED = r"Train with model\.image_encoder\.feature_layer=-1 model\.fusion\.tokens=all, or type format=hf"


@pytest.mark.parametrize(
    ("case", "typed", "message"),
    [
        ("hf_clip llama null", ["model.fusion.tokens=pooled"], NEEDED),
        (
            "hf_siglip llama -1",
            ["model.image_encoder.image_size=48"],
            r"Train with model\.image_encoder\.image_size=32, or",
        ),
        ("hf_clip cohere -1", [], r"which scales or caps its logits"),
        ("hf_clip gpt2 -1", [], r"GPT2Model has no attribute `embed_tokens`\), so type format=hf"),
        ("timm_convnext llama null", ["model.image_encoder.image_size=64"], r"transformers has no ConvNeXt of timm"),
        ("hf_clip phi -1", [], r"whose head has a bias"),
    ],
)
def test_what_a_run_must_be(
    case: str,
    typed: list[str],
    message: str,
    train_run: TrainRun,
    shapes: Shapes,
    image_encoder_folder: Folder,
    language_model_folder: Folder,
) -> None:
    run = train_run(*typed_for(case, shapes, image_encoder_folder, language_model_folder), *typed)
    with pytest.raises(UserError, match=message):
        exported(run)
    assert not (run.path / "export").exists()
