"""`mmft export`: the folders load in plain timm, transformers and peft, and give what the run's own model gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import timm
import torch
import transformers
from command import Mmft
from PIL import Image
from runs import TrainRun
from safetensors.torch import load_file, save_file
from tiny_encoders import IMAGE_KINDS

import mmft
from mmft.commands.export import export
from mmft.config.compose import compose
from mmft.data.images.image import ImageReader
from mmft.data.images.squares import Squaring
from mmft.errors import UserError
from mmft.models.encoder import Encoder
from mmft.models.image_encoder import build_image_encoder
from mmft.run.export.encoders import write_encoder

METHODS = ["lora", "lora_8bit"]
OTHERS = ["full", "lora_4bit", "loha", "ia3", "last_n", "freeze"]
slow = pytest.mark.slow


def inputs(encoder: Encoder) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    if hasattr(encoder, "tokenizer"):
        ids = torch.randint(5, 40, (3, 8))
        return ids, torch.ones_like(ids, dtype=torch.bool)
    return (torch.randint(0, 256, (3, 3, encoder.image_size, encoder.image_size), dtype=torch.uint8),)  # type: ignore[call-overload]


def loaded(folder: Path) -> Any:
    """The encoder as its library loads it, without anything of ours."""
    text = (folder / "config.json").read_text()
    if '"architecture"' in text:
        return timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    return transformers.AutoModel.from_pretrained(folder).eval()


@pytest.mark.parametrize("method", [*METHODS, *(pytest.param(name, marks=slow) for name in OTHERS)])
def test_plain_libraries_load_it(method: str, train_run: TrainRun, capsys: pytest.CaptureFixture[str]) -> None:
    typed = [f"tune/{part}={method}" for part in ("image_encoder", "text_encoder")]
    rate = [] if method == "freeze" else ["optim.lr=1e-2"]
    run = train_run(*typed, *(rate or ["optim.lr=null"]), "model.image_encoder.image_size=48")
    assert export(compose("export", [f"run={run.path}"])) == 0
    out = Path(capsys.readouterr().out.strip().splitlines()[-1])
    saved = mmft.load(run.path).saved
    saved.merge()
    for part in ("image_encoder", "text_encoder"):
        encoder = getattr(saved.model, part)
        plain = loaded(out / part)
        with torch.no_grad():
            expected = encoder(*inputs(encoder)).tokens
            encoder.backbone = plain
            assert torch.allclose(encoder(*inputs(encoder)).tokens, expected, atol=1e-4)
        assert all(p.dtype == torch.float32 for p in plain.parameters())
    card = (out / "README.md").read_text()
    assert f"| {method} |" in card
    told = f"computes with {method.removeprefix('lora_')[0]}-bit weights"
    assert (told in card) == (method in ("lora_8bit", "lora_4bit"))
    assert str(run.path) not in card
    assert (out / "adapters").exists() == (method in ("lora", "lora_8bit", "lora_4bit", "loha", "ia3"))


@pytest.mark.parametrize("image", sorted(IMAGE_KINDS))
def test_an_exported_encoder_is_complete(image: str, image_encoder_folder: Any, tmp_path: Path) -> None:
    """Its library misses no weight, and mmft takes it again, also without the token of masked pretraining."""
    encoder = build_image_encoder(str(image_encoder_folder(image)), None, "auto", pretrained=True).eval()
    write_encoder(encoder, tmp_path / "out", Squaring("squash"))
    again = build_image_encoder(str(tmp_path / "out"), None, "auto", pretrained=True).eval()
    with torch.no_grad():
        assert torch.allclose(again(*inputs(encoder)).tokens, encoder(*inputs(encoder)).tokens, atol=1e-5)
    if "timm" in image:
        return
    _, told = transformers.AutoModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not [name for name in told["missing_keys"] if "pooler" not in name and not name.startswith("head.")]
    weights = load_file(tmp_path / "out" / "model.safetensors")
    if weights.pop("embeddings.mask_token", None) is not None:
        save_file(weights, tmp_path / "out" / "model.safetensors", metadata={"format": "pt"})
        build_image_encoder(str(tmp_path / "out"), None, "auto", pretrained=True)


@pytest.mark.parametrize("method", ["lora", pytest.param("loha", marks=slow), pytest.param("ia3", marks=slow)])
@pytest.mark.parametrize(("image", "text"), [("timm_vit", "bert"), pytest.param("hf_dinov2", "roberta", marks=slow)])
def test_peft_puts_the_adapter_on_the_base(
    method: str, image: str, text: str, train_run: TrainRun, image_encoder_folder: Any, text_encoder_folder: Any
) -> None:
    folders = {"image_encoder": image_encoder_folder(image), "text_encoder": text_encoder_folder(text)}
    names = [f"model.{part}.name={folder}" for part, folder in folders.items()]
    run = train_run(f"tune={method}", *names, "optim.lr=1e-2")
    assert export(compose("export", [f"run={run.path}", f"out={run.path / 'out'}"])) == 0
    saved = mmft.load(run.path).saved
    for part, folder in folders.items():
        encoder = getattr(saved.model, part)
        with torch.no_grad():
            expected = encoder(*inputs(encoder)).tokens
            base = loaded(folder)
            if hasattr(base, "reset_classifier"):
                base.reset_classifier(0)
            before = encoder.backbone
            encoder.backbone = base
            assert not torch.allclose(encoder(*inputs(encoder)).tokens, expected, atol=1e-4)
            both = peft.PeftModel.from_pretrained(base, run.path / "out" / "adapters" / part)
            encoder.backbone = both.base_model.model
            assert torch.allclose(encoder.eval()(*inputs(encoder)).tokens, expected, atol=1e-4)
            encoder.backbone = before


@pytest.mark.parametrize("kind", ["timm_vit", "hf_dinov2", "hf_siglip"])
@pytest.mark.parametrize(("resize", "crop_pct"), [("squash", 1), ("crop", 1), ("squash", 0.75), ("crop", 0.8)])
def test_the_folders_own_transform_makes_images_as_the_run_does(
    resize: str, crop_pct: float, kind: str, train_run: TrainRun, image_encoder_folder: Any, tmp_path: Path
) -> None:
    name = f"model.image_encoder.name={image_encoder_folder(kind)}"
    typed = [f"data.resize={resize}", f"data.crop_pct={crop_pct}", "model.image_encoder.image_size=48"]
    run = train_run(*typed, "trainer.max_epochs=1", name)
    assert export(compose("export", [f"run={run.path}", f"out={tmp_path / 'out'}"])) == 0
    ramps = np.linspace(0, 255, 160)[None, :, None] + np.linspace(0, 90, 60)[:, None, None] + np.array([0, 40, 80])
    image = Image.fromarray((ramps % 256).astype(np.uint8))
    image.save(tmp_path / "wide.png")
    own = ImageReader(48, resize, "white", 10**6, crop_pct=crop_pct)(str(tmp_path / "wide.png")) / 255
    folder, theirs = tmp_path / "out" / "image_encoder", own
    if kind.startswith("timm"):
        config = timm.data.resolve_model_data_config(loaded(folder))
        theirs = timm.data.create_transform(**config)(image)
        own = (own - torch.tensor(config["mean"])[:, None, None]) / torch.tensor(config["std"])[:, None, None]
    else:
        processor = transformers.AutoImageProcessor.from_pretrained(folder)
        theirs = processor(image, return_tensors="pt")["pixel_values"][0]
        own = mmft.load(run.path).model.image_encoder.normalise((own * 255)[None])[0]
    assert theirs.shape == own.shape
    assert (theirs - own).abs().mean() < 0.06  # of pixels that have a deviation of about 1


def test_the_card_of_a_contrastive_run_says_what_the_folders_lack(train_run: TrainRun, tmp_path: Path) -> None:
    run = train_run("task=contrastive", "data.columns.label=null", "trainer.max_epochs=1")
    assert export(compose("export", [f"run={run.path}", f"out={tmp_path / 'out'}"])) == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert "these folders alone cannot be used for retrieval." in card


@pytest.mark.slow
def test_as_it_is_typed(train_run: TrainRun, mmft: Mmft, tmp_path: Path) -> None:
    run = train_run("tune=lora", "trainer.max_epochs=1")
    done = mmft("export", f"run={run.path}", "out=encoders", cwd=tmp_path)
    assert done.stdout == f"{tmp_path / 'encoders'}\n"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("mine")
    refused = mmft("export", f"run={run.path}", "out=other", cwd=tmp_path, check=False)
    assert refused.returncode == 2
    assert "not an earlier export" in refused.stderr
    assert (tmp_path / "other" / "file").read_text() == "mine"


def test_what_an_encoder_has_no_place_for(train_run: TrainRun) -> None:
    run = train_run("tune=prompt", "trainer.max_epochs=1")
    with pytest.raises(UserError, match=r"tune\.image_encoder"):
        export(compose("export", [f"run={run.path}"]))
    assert not (run.path / "export").exists()
