"""`mmft export format=sentence_transformers`: SentenceTransformer embeds images and texts as the run does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mostly_slow import mostly_slow
from PIL import Image
from pretrained_pairs import images
from runs import Run, TrainRun
from sentence_transformers import SentenceTransformer

import mmft
from mmft.commands.export import export
from mmft.config.compose import compose
from mmft.errors import UserError

TEXTS = ["a disc", "a red square on a grey background near the left border of the image", "blue"]
DUAL = ["task=contrastive", "data.columns.label=null", "trainer.max_epochs=1"]


def exported(run: Run) -> Path:
    assert export(compose("export", [f"run={run.path}", "format=sentence_transformers"])) == 0
    return run.path / "export"


def check_embeddings(run: Run) -> None:
    """Asserts the embeddings of images of the run's size and of texts, in a batch and alone."""
    out, model = exported(run), mmft.load(run.path)
    plain = SentenceTransformer(str(out), device="cpu")
    pillow = [Image.fromarray(x.permute(1, 2, 0).numpy()) for x in images(3, model.model.image_encoder.image_size)]
    columns = model.saved.config.data.columns
    rows = [{columns.image: x, columns.text: text} for x, text in zip(pillow, TEXTS, strict=True)]
    own = model.embed(rows)
    for name, inputs in (("image", pillow), ("text", TEXTS)):
        found = plain.encode(inputs, show_progress_bar=False)  # type: ignore[call-overload]
        assert float(own[name].std(0).max()) > 1e-4
        assert np.allclose(found, own[name], atol=1e-5)
        assert np.allclose(plain.encode(inputs[1], show_progress_bar=False), own[name][1], atol=1e-5)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    "kind", mostly_slow(["clip", "siglip", "chinese_clip", "metaclip_2", "altclip", "align"], "siglip")
)
def test_a_pair(kind: str, pair_folder: Any, pair_run: Any) -> None:
    check_embeddings(pair_run(pair_folder(kind), "tune=lora"))


ENCODERS = {
    "timm_vit bert": ["tune=full"],  # class token and mean, and mean
    "hf_dinov2 roberta": ["tune=lora", "model.image_encoder.pool=mean", "model.text_encoder.pool=cls"],
    "hf_siglip modernbert": ["model.fusion.hidden=16", "model.text_encoder.pool=cls_mean"],
    "hf_clip clip": ["model.image_encoder.pool=own", "model.text_encoder.pool=last", "model.fusion.norm=false"],
    "timm_resnet deberta_v2": ["model.fusion.bias=false", "model.text_encoder.max_length=8"],
}


@pytest.mark.parametrize("encoders", mostly_slow(ENCODERS, "timm_vit bert"))
def test_two_encoders(encoders: str, train_run: TrainRun, image_encoder_folder: Any, text_encoder_folder: Any) -> None:
    image, text = encoders.split()
    names = [
        f"model.image_encoder.name={image_encoder_folder(image)}",
        f"model.text_encoder.name={text_encoder_folder(text)}",
    ]
    check_embeddings(train_run(*DUAL, *names, *ENCODERS[encoders]))


def test_the_cards_own_lines(train_run: TrainRun, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    out = exported(train_run(*DUAL))
    code = re.search(r"```python\n(.*?)```", (out / "README.md").read_text(), re.DOTALL)
    assert code is not None
    Image.new("RGB", (40, 30), "red").save(out / "image.png")
    monkeypatch.chdir(out)
    capsys.readouterr()
    exec(code[1], {})
    assert re.search(r"tensor\(\[\[-?0\.\d+\]\]", capsys.readouterr().out)


def test_other_embeddings_are_refused(train_run: TrainRun, image_encoder_folder: Any) -> None:
    """CLIP's patches are not normalised in transformers' own output, and it takes images of one size."""
    size = ["model.image_encoder.image_size=48", "model.image_encoder.pool=own"]
    run = train_run(*DUAL, f"model.image_encoder.name={image_encoder_folder('hf_clip')}", "trainer.max_steps=1")
    with pytest.raises(UserError, match=r"computes other embeddings of images .* model\.image_encoder\.pool=cls_mean"):
        exported(run)
    run = train_run(*DUAL, f"model.image_encoder.name={image_encoder_folder('hf_clip')}", "trainer.max_steps=1", *size)
    with pytest.raises(UserError, match=r"Train with model\.image_encoder\.image_size=32, or type format=hf"):
        exported(run)
    assert not (run.path / "export").exists()


def test_models_without_a_shared_space_are_refused(train_run: TrainRun) -> None:
    run = train_run("trainer.max_steps=1")
    with pytest.raises(UserError, match="format=sentence_transformers writes .* model/fusion=concat"):
        exported(run)


def test_without_the_package(train_run: TrainRun, monkeypatch: pytest.MonkeyPatch) -> None:
    run = train_run(*DUAL, "trainer.max_steps=1")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"needs that package. Type pip install 'mmft\[sentence-transformers\]'"):
        exported(run)


def test_padding_that_the_processor_cannot_do_is_told(
    train_run: TrainRun, image_encoder_folder: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"model.image_encoder.name={image_encoder_folder('hf_dinov2')}"
    out = exported(train_run(*DUAL, name, "data.resize=pad", "trainer.max_steps=1"))
    assert "cannot pad; the exported one squashes images" in capsys.readouterr().err
    assert "does not pad images as the run did" in (out / "README.md").read_text()
