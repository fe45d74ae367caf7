"""An entry's name changes with all that its values depend on, and with nothing else."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from mmft.cache import identity as module
from mmft.cache.identity import identity, of_users, says_what_it_reads
from mmft.models.encoder import Encoder
from mmft.models.frozen_part import FrozenPart
from mmft.models.image_encoder import TimmImageEncoder, build_image_encoder
from mmft.models.text_encoder import build_text_encoder

READING = {"image_size": 32, "resize": "squash", "background": (255, 255, 255), "max_pixels": 10**8}


@pytest.fixture
def image(image_encoder_folder: Any) -> Encoder:
    return build_image_encoder(str(image_encoder_folder("timm_vit")), 32, "auto", pretrained=True)


@pytest.fixture
def text(text_encoder_folder: Any) -> Encoder:
    return build_text_encoder(str(text_encoder_folder("bert")), None, "auto", pretrained=True)


def name_of(encoder: Encoder, layer: int | None = None, precision: str = "32-true", **reading: Any) -> str:
    images = READING | reading if encoder.__class__.__name__.endswith("ImageEncoder") else {}
    return identity(FrozenPart(encoder, layer, "pooled", exact=True), precision, images)[0]


def test_it_is_the_same_for_a_copy_in_another_folder(image: Encoder, text: Encoder) -> None:
    for encoder in (image, text):
        other = copy.deepcopy(encoder)
        other.source = replace(other.source, name="elsewhere")
        assert name_of(other) == name_of(encoder)


def test_any_weight_or_buffer_below_the_layer_changes_it(image: Encoder, text: Encoder) -> None:
    for encoder in (image, text):
        layers = encoder.layers()
        for layer in (None, 2):
            before = name_of(encoder, layer)
            for name, parameter in encoder.named_parameters():
                was = parameter.data.clone()
                parameter.data.view(-1)[-1] += 1e-3
                changed = name_of(encoder, layer) != before
                assert changed == (layer is None or layers[name] < layer), name
                parameter.data.copy_(was)
            for name, buffer in encoder.named_buffers():
                was = buffer.clone()
                buffer.view(-1)[0] += 1
                assert name_of(encoder, layer) != before, name
                buffer.copy_(was)
            assert name_of(encoder, layer) == before


def _pool(encoder: Any) -> None:
    encoder.pool = "cls" if encoder.pool != "cls" else "mean"


def _heads(encoder: Any) -> None:
    for one in encoder.modules():
        if hasattr(one, "num_heads"):
            one.num_heads += 1


def _epsilon(encoder: Any) -> None:
    next(m for m in encoder.modules() if isinstance(m, torch.nn.LayerNorm)).eps *= 10


CHANGES: list[Callable[[Any], None]] = [_pool, _heads, _epsilon]


@pytest.mark.parametrize("change", CHANGES)
def test_a_setting_changes_it(change: Callable[[Any], None], image: Encoder) -> None:
    before = name_of(image)
    change(image)
    assert name_of(image) != before


def test_everything_else_that_the_values_depend_on(image: Encoder, text: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = name_of(image)
    assert len({before, name_of(image, 2), name_of(image, 3)}) == 3
    assert name_of(image, precision="bf16-mixed") != before
    for key, value in {"image_size": 64, "resize": "crop", "background": (0, 0, 0)}.items():
        assert name_of(image, **{key: value}) != before
    tokens = FrozenPart(image, None, "tokens", exact=True)
    assert identity(tokens, "32-true", READING)[0] != before
    assert identity(FrozenPart(image, None, "pooled"), "32-true", READING)[0] != before
    monkeypatch.setattr(module, "_version", lambda _: "0.0")
    assert name_of(image) != before
    before = name_of(text)
    text.tokenizer.model_max_length -= 1
    assert name_of(text) != before
    before = name_of(text)
    text.backbone.config._attn_implementation = "eager"
    assert name_of(text) != before


class _OwnImageEncoder(TimmImageEncoder):
    """As in docs/extend.md: code that may change under the same versions."""


class _ToldImageEncoder(_OwnImageEncoder):
    power = 1.0

    @property
    def reads(self) -> dict[str, Any]:
        return {"power": self.power}


class _OwnLayer(torch.nn.LayerNorm):
    pass


def test_an_own_encoder_has_to_say_what_it_reads(image: Encoder) -> None:
    """Its settings, or the code that it calls, could change unnoticed."""
    assert says_what_it_reads(image)
    image.__class__ = _OwnImageEncoder
    assert not says_what_it_reads(image)
    image.__class__ = _ToldImageEncoder
    assert says_what_it_reads(image)
    before = name_of(image)
    vars(image)["power"] = 2.0
    assert name_of(image) != before


def test_an_own_layer_is_an_own_encoder(image: Encoder) -> None:
    next(m for m in image.modules() if isinstance(m, torch.nn.LayerNorm)).__class__ = _OwnLayer
    assert of_users(image) == [_OwnLayer]
    assert not says_what_it_reads(image)
