"""An exported encoder that ends at a block: its library builds as many blocks, with the norm that the file needs."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers as hf

from mmft.data.images.squares import Squaring
from mmft.errors import UserError
from mmft.models.image_encoder import build_image_encoder
from mmft.run.export.encoders import write_encoder

PIXELS = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def of_library(folder: Path, pixels: torch.Tensor) -> torch.Tensor:
    """The output of the last block of a plain model from the folder."""
    if (folder / "preprocessor_config.json").is_file():
        model, info = hf.AutoModel.from_pretrained(folder, output_loading_info=True)
        assert [name for name in info["missing_keys"] if "mask_token" not in name and "head." not in name] == []
        found: torch.Tensor = model(pixel_values=pixels, output_hidden_states=True).hidden_states[-1]
        return found
    plain: Any = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert plain.norm.weight.shape
    plain.norm = torch.nn.Identity()
    tokens: torch.Tensor = plain.forward_features(pixels)
    return tokens


@pytest.mark.parametrize("kind", ["timm_vit", "hf_clip", "hf_dinov2", "hf_siglip"])
def test_plain_libraries_load_it(
    kind: str, image_encoder_folder: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    encoder = build_image_encoder(str(image_encoder_folder(kind)), 32, "auto", pretrained=True, feature_layer=1).eval()
    with caplog.at_level(logging.WARNING):
        write_encoder(encoder, tmp_path / "out", Squaring("squash"))
    with torch.no_grad():
        expected = encoder(PIXELS).tokens
        torch.testing.assert_close(of_library(tmp_path / "out", encoder.normalise(PIXELS)), expected)


def test_a_model_of_timm_that_counts_its_blocks_otherwise(tmp_path: Path) -> None:
    torch.manual_seed(0)
    options = {"img_size": 32}
    model = timm.create_model("mixer_s16_224", num_classes=0, **options)
    timm.models.save_for_hf(model, tmp_path / "in", model_args=options, safe_serialization=True)
    encoder = build_image_encoder(str(tmp_path / "in"), 32, "mean", pretrained=False, feature_layer=1)
    with pytest.raises(UserError, match="timm cannot build MlpMixer .* without its last blocks"):
        write_encoder(encoder, tmp_path / "out", Squaring("squash"))
