"""Layers that are never trained, in the 16 bits of their file or quantized as they are read."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from language_models import LANGUAGE_MODELS, OTHERS, in_16_bits
from torch import Tensor, nn

from mmft.models import frozen_layers
from mmft.models.frozen_layers import FrozenLayers, NarrowLinear, narrowed, widen
from mmft.models.language.language_model import LanguageModel, build_language_model
from mmft.tuning.quantize import Quantized, quantize, quantized_layers

Folder = Callable[..., Path]
IDS = torch.arange(5, 29).view(2, 12)


def built(folder: Path, frozen: FrozenLayers | None) -> LanguageModel:
    return build_language_model(str(folder), 16, "auto", True, frozen=frozen).eval()


def computed(model: LanguageModel) -> list[Tensor]:
    """Hidden states, log-probabilities and the gradient of the embedded tokens."""
    embedded = model.embed(IDS).detach().requires_grad_()
    hidden = model.hidden({"inputs_embeds": embedded}, torch.ones_like(IDS, dtype=torch.bool))
    log_probs = model.log_probs(hidden[0], IDS[0])
    log_probs.sum().backward()
    assert embedded.grad is not None
    return [hidden.detach(), log_probs.detach(), embedded.grad]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_16_bits_are_taken_where_they_hold_every_value() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(5000, 3, generator=generator)
    for dtype in (torch.bfloat16, torch.float16):
        own = values.to(dtype).float()
        assert narrowed(own).dtype == dtype
        assert torch.equal(narrowed(own).float(), own)
        own[-1, -1] = 1 + 2**-20
        assert narrowed(own) is own


def test_no_copy_in_float32_is_kept_for_the_backward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    copies = []
    plain = frozen_layers.functional.linear

    def linear(given: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        copies.append(weakref.ref(weight))
        return plain(given, weight, bias)

    monkeypatch.setattr(frozen_layers.functional, "linear", linear)
    layer = NarrowLinear(4, 3)
    layer.weight = nn.Parameter(layer.weight.detach().bfloat16(), requires_grad=False)
    given = torch.randn(2, 4, requires_grad=True)
    out = layer(given)
    gc.collect()
    assert [copy() for copy in copies] == [None]
    out.sum().backward()
    assert given.grad is not None
    assert torch.equal(given.grad, layer.weight.float().sum(0).expand(2, 4))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", [*LANGUAGE_MODELS, *OTHERS])
def test_a_language_model_computes_the_same(
    kind: str, dtype: torch.dtype, language_model_folder: Folder, tmp_path: Path
) -> None:
    folder = in_16_bits(language_model_folder(kind), tmp_path / "model", dtype)
    wide, narrow = built(folder, None), built(folder, FrozenLayers())
    assert {p.dtype for p in wide.parameters()} == {torch.float32}
    kept = {name for name, p in narrow.named_parameters() if p.dtype == dtype}
    layers = [m for m in narrow.modules() if isinstance(m, NarrowLinear)]
    assert len(layers) == len(kept)
    assert kept or kind == "gpt2"
    assert narrow.backbone.dtype == torch.float32  # which models cast to
    names = [[name for name, _ in model.named_parameters()] for model in (wide, narrow)]
    assert names[0] == names[1]
    assert wide.state_dict().keys() == narrow.state_dict().keys()
    for device_type, to in (("cpu", None), ("cpu", torch.bfloat16), ("cpu", torch.float16)):
        with torch.autocast(device_type, to or torch.bfloat16, enabled=to is not None):
            assert same(computed(wide), computed(narrow)), to
    widen(narrow)
    assert same([p.detach() for p in wide.parameters()], [p.detach() for p in narrow.parameters()])
    assert not any(isinstance(m, NarrowLinear) for m in narrow.modules())
    assert [name for name, _ in narrow.named_parameters()] == names[0]


def test_a_file_in_float32_stays_as_it_is(language_model_folder: Folder) -> None:
    model = built(language_model_folder("llama"), FrozenLayers())
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert not any(isinstance(m, NarrowLinear) for m in model.modules())


def test_in_float64_it_is_an_ordinary_model(language_model_folder: Folder, tmp_path: Path) -> None:
    folder = in_16_bits(language_model_folder("qwen3"), tmp_path / "model", torch.bfloat16)
    assert same(computed(built(folder, None).double()), computed(built(folder, FrozenLayers()).double()))


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_weights_are_quantized_one_after_the_other_as_they_are_read(
    kind: str, bits: Any, language_model_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = in_16_bits(language_model_folder(kind), tmp_path / "model", torch.bfloat16)
    after = built(folder, None)
    count = quantize(after, bits)
    read: list[weakref.ref[Tensor]] = []
    most = 0
    plain = Quantized.weight

    def weight(self: Quantized, values: Tensor) -> nn.Parameter:
        nonlocal most
        gc.collect()
        read.append(weakref.ref(values))
        most = max(most, sum(one() is not None for one in read))
        return plain(self, values)

    monkeypatch.setattr(Quantized, "weight", weight)
    at_once = built(folder, Quantized(bits))
    assert len(read) == count
    assert most == 1  # tensors in float32 at any time
    assert quantize(at_once, bits) == count == len(list(quantized_layers(at_once)))
    assert at_once.head not in [layer for _, layer in quantized_layers(at_once)]
    assert type(at_once.head) is (NarrowLinear if kind == "llama" else nn.Linear)  # the other's is the embedding
    assert after.state_dict().keys() == at_once.state_dict().keys()
    assert same(computed(after.eval()), computed(at_once.eval()))
    assert "quantization_config" not in at_once.backbone.config.to_dict()  # type: ignore[operator, union-attr]
