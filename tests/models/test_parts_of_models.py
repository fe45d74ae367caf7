"""Encoders that are part of something: of an encoder-decoder, of two classes, under a neck, for other images."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from make_shapes import captions
from runs import TrainRun
from tiny_tokenizers import make_tokenizer

from mmft.commands.export import export
from mmft.config.compose import compose
from mmft.errors import UserError
from mmft.models.image_encoder import build_image_encoder
from mmft.models.text_encoder import build_text_encoder

TOKENIZER = make_tokenizer("bert", captions())
_SIZE = {"vocab_size": len(TOKENIZER), "pad_token_id": 0}
_T5 = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2, **_SIZE}
_LAYERS = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 1, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
_BART = {**_LAYERS, "encoder_attention_heads": 2, "decoder_attention_heads": 2, **_SIZE}
_FUNNEL = {"block_sizes": [1, 1], "d_model": 32, "n_head": 2, "d_head": 16, "d_inner": 64, "vocab_size": len(TOKENIZER)}

ENCODER_DECODERS: dict[str, tuple[Callable[[], Any], str, int | None]] = {  # model, class of its encoder, positions
    "t5": (lambda: hf.T5Model(hf.T5Config(**_T5)), "T5EncoderModel", None),
    "t5_with_head": (lambda: hf.T5ForConditionalGeneration(hf.T5Config(**_T5)), "T5EncoderModel", None),
    "t5_encoder": (lambda: hf.T5EncoderModel(hf.T5Config(**_T5)), "T5EncoderModel", None),
    "mt5": (lambda: hf.MT5Model(hf.MT5Config(**_T5)), "MT5EncoderModel", None),
    "umt5": (lambda: hf.UMT5Model(hf.UMT5Config(**_T5)), "UMT5EncoderModel", None),
    "bart": (lambda: hf.BartModel(hf.BartConfig(max_position_embeddings=40, **_BART)), "BartEncoder", 40),
    "bart_with_head": (
        lambda: hf.BartForConditionalGeneration(hf.BartConfig(max_position_embeddings=40, **_BART)),
        "BartEncoder",
        40,
    ),
    "mbart": (lambda: hf.MBartModel(hf.MBartConfig(max_position_embeddings=40, **_BART)), "MBartEncoder", 40),
    "pegasus": (lambda: hf.PegasusModel(hf.PegasusConfig(max_position_embeddings=40, **_BART)), "PegasusEncoder", 40),
    "marian": (
        lambda: hf.MarianModel(hf.MarianConfig(max_position_embeddings=40, decoder_start_token_id=0, **_BART)),
        "MarianEncoder",
        40,
    ),
    "led": (
        lambda: hf.LEDModel(
            hf.LEDConfig(
                max_encoder_position_embeddings=40, max_decoder_position_embeddings=20, attention_window=8, **_BART
            )
        ),
        "LEDEncoder",
        40,
    ),
}


def saved(model: Any, folder: Path) -> str:
    model.save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return str(folder)


def texts() -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(5, len(TOKENIZER), (3, 8), generator=torch.Generator().manual_seed(0))
    return ids, torch.arange(8) < torch.tensor([[8], [5], [3]])


@pytest.mark.parametrize("kind", ENCODER_DECODERS)
def test_the_encoder_is_taken(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    make, name, positions = ENCODER_DECODERS[kind]
    whole = make().eval()
    encoder = build_text_encoder(saved(whole, tmp_path), None, "auto", pretrained=True).eval()
    assert type(encoder.backbone).__name__ == name
    assert encoder.pool == "mean"
    assert positions is None or encoder.positions == positions
    assert encoder.max_length == (positions or 512)
    ids, mask = texts()
    with torch.no_grad():
        expected = whole.get_encoder()(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        assert torch.allclose(encoder(ids, mask).tokens[mask], expected[mask], atol=1e-6)
    encoder(ids, mask).tokens.square().sum().backward()
    unused = [name for name, p in encoder.named_parameters() if p.grad is None]
    assert all("_global." in name for name in unused), unused  # LED's global attention, which needs a mask of its own
    assert {1, 2} <= set(encoder.layers().values())


def test_an_exported_encoder_can_be_loaded_again(train_run: TrainRun, tmp_path: Path) -> None:
    folder = saved(ENCODER_DECODERS["bart"][0](), tmp_path / "bart")
    run = train_run(f"model.text_encoder.name={folder}", "trainer.max_epochs=1")
    export(compose("export", [f"run={run.path}", f"out={tmp_path / 'out'}"]))
    first, again = (
        build_text_encoder(str(place), 32, "auto", pretrained=True).eval()
        for place in (folder, tmp_path / "out" / "text_encoder")
    )
    assert type(first.backbone) is type(again.backbone)
    with torch.no_grad():
        assert not torch.equal(first(*texts()).pooled, again(*texts()).pooled)  # it was trained
    card = (tmp_path / "out" / "README.md").read_text()
    assert "from transformers.models.bart.modeling_bart import BartEncoder\n" in card
    assert 'text_encoder = BartEncoder.from_pretrained("text_encoder")' in card
    assert "import AutoTokenizer\n" in card


def test_funnel_has_two_classes(tmp_path: Path) -> None:
    config = hf.FunnelConfig(**_FUNNEL)
    encoder = build_text_encoder(saved(hf.FunnelModel(config), tmp_path / "whole"), 32, "auto", pretrained=True)
    assert encoder(*texts()).pooled.shape == (3, 32)
    with pytest.raises(UserError, match=r"FunnelBaseModel turns 8 tokens into an output of shape \(2, 4, 32\)"):
        build_text_encoder(saved(hf.FunnelBaseModel(config), tmp_path / "base"), 32, "auto", pretrained=True)


def test_no_limit_of_positions(tmp_path: Path) -> None:
    config = hf.XLNetConfig(vocab_size=len(TOKENIZER), d_model=32, n_layer=2, n_head=2, d_inner=64)
    folder = saved(hf.XLNetModel(config), tmp_path)
    assert build_text_encoder(folder, None, "auto", pretrained=True).max_length == 512
    assert build_text_encoder(folder, 1000, "auto", pretrained=True).max_length == 1000


def test_the_width_of_the_output_counts(tmp_path: Path) -> None:
    """SAM's neck has other channels than its blocks."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_dim": 64, "window_size": 2}
    config = hf.SamVisionConfig(output_channels=24, image_size=64, global_attn_indexes=[1], **sizes)
    hf.SamVisionModel(config).save_pretrained(tmp_path)
    encoder = build_image_encoder(str(tmp_path), None, "auto", pretrained=True)
    out = encoder(torch.zeros(2, 3, 64, 64, dtype=torch.uint8))
    assert encoder.width == encoder.pooled_width == 24
    assert out.tokens.shape == (2, 16, 24)
    assert out.pooled.shape == (2, 24)
    with pytest.raises(UserError, match=r"image_size=96: it does not accept images of this size"):
        build_image_encoder(str(tmp_path), 96, "auto", pretrained=True)


def test_images_that_are_not_square_are_refused(tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    hf.ViTModel(hf.ViTConfig(image_size=[96, 64], patch_size=16, **sizes)).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"made for images of 96 x 64 pixels \(height x width\), .* are square"):
        build_image_encoder(str(tmp_path), None, "auto", pretrained=True)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("timm/vit_smal_patch14_dinov2.lvd142m", r"Did you mean vit_small_patch14_dinov2 or"),
        ("resnet5", r"Did you mean resnet50"),
        ("xyzzy-17", r"nor an architecture of timm\.$"),
    ],
)
def test_nearest_names_of_timm(name: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*_: Any, **__: Any) -> None:
        pytest.fail("the hub was asked")

    monkeypatch.setattr("huggingface_hub.snapshot_download", asked)
    with pytest.raises(UserError, match=rf"model.image_encoder.name: {name} is neither a folder here.*{said}"):
        build_image_encoder(name, None, "auto", pretrained=True)


@pytest.mark.parametrize("content", ["[]", "3", '{"a": ' * 2000, json.dumps({"model_type": ["bert"]})])
def test_a_strange_config_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"model.text_encoder.name"):
        build_text_encoder(str(tmp_path), None, "auto", pretrained=True)
