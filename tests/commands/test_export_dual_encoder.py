"""`mmft export format=transformers` of two separate encoders: a VisionTextDualEncoder, which can be a pair again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from mostly_slow import mostly_slow
from PIL import Image
from pretrained_pairs import begun, check_logits, images, logits
from runs import Run, TrainRun
from safetensors.torch import load_file
from tiny_pairs import make_pair
from torch import Tensor

import mmft
from mmft.commands.export import export
from mmft.config.compose import compose
from mmft.errors import UserError

TEXTS = ["a disc", "a red square on a grey background near the left border of the image", "blue"]
DUAL = ["task=contrastive", "data.columns.label=null", "trainer.max_epochs=1"]
PLAIN = ["model.fusion.norm=false", "model.fusion.bias=false"]
OWN = ["model.image_encoder.pool=own", "model.text_encoder.pool=own"]


def of_transformers(folder: Path, normalised: Tensor, texts: list[str]) -> Tensor:
    plain, tokenizer = hf.AutoModel.from_pretrained(folder).eval(), hf.AutoTokenizer.from_pretrained(folder)
    given = tokenizer(texts, return_tensors="pt", padding=True, truncation=True)
    return plain(pixel_values=normalised, **given).logits_per_image


def exported(run: Run) -> Path:
    assert export(compose("export", [f"run={run.path}", "format=transformers"])) == 0
    return run.path / "export"


def pairs_of(image: Path, text: Path) -> list[str]:
    return [f"model.image_encoder.name={image}", f"model.text_encoder.name={text}"]


TUNED = {
    "hf_dinov2 bert": ["tune=full", "model.image_encoder.image_size=48"],
    "hf_clip roberta": ["tune=lora", "optim.lr=1e-2"],
    "hf_siglip clip": ["tune=freeze", "optim.lr=null"],
}


@pytest.mark.parametrize("encoders", mostly_slow(TUNED, "hf_dinov2 bert"))
def test_an_export_is_the_run_and_can_be_a_pair(
    encoders: str, train_run: TrainRun, image_encoder_folder: Any, text_encoder_folder: Any
) -> None:
    (image, text), more = encoders.split(), TUNED[encoders]
    names = pairs_of(image_encoder_folder(image), text_encoder_folder(text))
    run = train_run(*DUAL, *PLAIN, *OWN, *names, *more, "model.text_encoder.max_length=12")
    out, model = exported(run), mmft.load(run.path).model.eval()
    again, config = begun(out)
    pixels = images(3, model.image_encoder.image_size)
    with torch.no_grad():
        expected = of_transformers(out, model.image_encoder.normalise(pixels), TEXTS)
        assert float(expected.std()) > 1e-3
        check_logits(model, pixels, TEXTS, expected)
        check_logits(again, pixels, TEXTS, expected)
    assert (again.image_encoder.image_size, again.text_encoder.max_length) == (model.image_encoder.image_size, 12)
    assert config.data.resize == "squash"
    processor = hf.AutoProcessor.from_pretrained(out)
    assert type(processor).__name__ == "VisionTextDualEncoderProcessor"
    given = processor(images=Image.fromarray(pixels[0].permute(1, 2, 0).numpy()), return_tensors="pt")["pixel_values"]
    assert torch.allclose(given, model.image_encoder.normalise(pixels[:1]), atol=1e-4)
    card = (out / "README.md").read_text()
    assert "VisionTextDualEncoderModel.from_pretrained" in card
    assert str(image_encoder_folder(image)) not in card
    unused = {name for name in load_file(out / "model.safetensors") if "mask_token" in name}
    assert len(unused) == (image == "hf_dinov2")


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ([], r"Train with model\.fusion\.norm=false model\.fusion\.bias=false model\.image_encoder\.pool=own model"),
        ([*PLAIN, *OWN, "task.loss=sigmoid"], r"Train with task\.loss=info_nce, or"),
        ([*PLAIN, *OWN, "model.fusion.hidden=8"], r"Train with model\.fusion\.hidden=null, or"),
    ],
)
def test_what_a_run_must_be(
    typed: list[str], message: str, train_run: TrainRun, image_encoder_folder: Any, text_encoder_folder: Any
) -> None:
    names = pairs_of(image_encoder_folder("hf_dinov2"), text_encoder_folder("bert"))
    run = train_run(*DUAL, *names, "trainer.max_steps=1", *typed)
    with pytest.raises(UserError, match=message):
        exported(run)


def test_the_image_size_of_an_encoder_that_takes_one_alone(
    train_run: TrainRun, image_encoder_folder: Any, text_encoder_folder: Any
) -> None:
    names = pairs_of(image_encoder_folder("hf_clip"), text_encoder_folder("bert"))
    run = train_run(*DUAL, *PLAIN, *OWN, *names, "trainer.max_steps=1", "model.image_encoder.image_size=48")
    with pytest.raises(UserError, match=r"Train with model\.image_encoder\.image_size=32, or"):
        exported(run)


def test_encoders_that_the_class_does_not_hold(train_run: TrainRun, text_encoder_folder: Any) -> None:
    run = train_run(*DUAL, *PLAIN, *OWN, f"model.text_encoder.name={text_encoder_folder('bert')}")  # images: timm's
    with pytest.raises(UserError, match=r"cannot hold .*bert_32_0 \(the image encoder is timm's\)"):
        exported(run)


def test_a_pooler_is_never_random(shapes_overrides: list[str], text_encoder_folder: Any, tmp_path: Path) -> None:
    bert = hf.BertModel.from_pretrained(text_encoder_folder("bert"), add_pooling_layer=False)
    bert.save_pretrained(tmp_path / "bert")
    hf.AutoTokenizer.from_pretrained(text_encoder_folder("bert")).save_pretrained(tmp_path / "bert")
    typed = [f"model.text_encoder.name={tmp_path / 'bert'}", "model.text_encoder.pool=own"]
    with pytest.raises(UserError, match=r"no weights of its pooling layer \(pooler\.dense\.\w+\), which would"):
        built(shapes_overrides, *typed)
    with pytest.raises(UserError, match="modernbert_32_0 has no pooling of its own"):
        built(shapes_overrides, f"model.text_encoder.name={text_encoder_folder('modernbert')}", typed[1])


def test_a_pooling_of_the_padding_is_refused(shapes_overrides: list[str], tmp_path: Path) -> None:
    pair = hf.AutoModel.from_pretrained(make_pair(tmp_path / "pair", TEXTS, kind="siglip"))
    hf.SiglipTextModel.from_pretrained(tmp_path / "pair").save_pretrained(tmp_path / "text")
    hf.AutoTokenizer.from_pretrained(tmp_path / "pair").save_pretrained(tmp_path / "text")
    assert pair.config.model_type == "siglip"
    typed = [f"model.text_encoder.name={tmp_path / 'text'}", "model.text_encoder.pool=own"]
    with pytest.raises(UserError, match="changes with the padding of a text"):
        built(shapes_overrides, *typed)


def test_a_fusion_of_tokens_does_not_pool() -> None:
    with pytest.raises(UserError, match=r"model\.image_encoder\.pool: own is not used by model/fusion=cross"):
        compose("train", ["model/fusion=cross", "model.image_encoder.pool=own"])


@pytest.mark.parametrize(
    ("image", "text"), [("hf_siglip", "bert"), ("hf_clip", "clip"), ("hf_dinov2", "roberta"), ("timm_vit", "bert")]
)
def test_every_trained_parameter_gets_a_gradient(
    image: str, text: str, shapes_overrides: list[str], image_encoder_folder: Any, text_encoder_folder: Any
) -> None:
    model = built(shapes_overrides, *OWN, *pairs_of(image_encoder_folder(image), text_encoder_folder(text)))
    logits(model, images(3), TEXTS).square().sum().backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None and "missing" not in name]


def built(base: list[str], *typed: str) -> Any:
    config = compose("train", [*base, *DUAL, *typed]).config
    task = mmft.build.build_task(config.task)
    task.fit([])
    return mmft.build.build_model(config.model, task.make_head, seed=0)
