"""Quantizes frozen linear weights to 8 or 4 bits with bitsandbytes, on CPU and GPU.

8 bits: one scale per output (absmax of its row); in the product, activations are also rounded to 8 bits, through
float16 (Dettmers et al. 2022, arXiv 2208.07339, without separate outlier columns). 4 bits: NF4 with 8-bit scales
(Dettmers et al. 2023, arXiv 2305.14314). The result depends only on the weights, so a finished model is rebuilt from
its base encoder and stores no quantized weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mmft.models.encoder import Encoder
from mmft.models.frozen_layers import FrozenLayers, NarrowLinear
from mmft.models.language.language_model import LanguageModel

Bits = Literal[8, 4]


class Quantized(FrozenLayers):
    """Linear layers in 8 or 4 bits, quantized as soon as they are read."""

    def __init__(self, bits: Bits) -> None:
        self.bits = bits

    def weight(self, values: Tensor) -> nn.Parameter:
        """A weight as it is kept."""
        return _quantized(values, self.bits)

    def layer(self, layer: nn.Linear) -> nn.Linear:
        """A layer that computes with it."""
        found: nn.Linear = _with_weight(layer, layer.weight, self.bits)
        return found


def quantize(encoder: Encoder, bits: Bits) -> int:
    """Replaces every linear layer of the encoder's backbone, but a language model's head, by a quantized one.

    Args:
        encoder: on the CPU; biases, norms and embeddings are not quantized. Layers may have been quantized already.
        bits: 8 or 4.

    Returns:
        The number of quantized layers.
    """
    head = encoder.head if isinstance(encoder, LanguageModel) else None  # often tied to the embedding
    layers = [
        (name, layer)
        for name, layer in encoder.backbone.named_modules()
        if type(layer) in (nn.Linear, NarrowLinear) and layer is not head
    ]
    for name, layer in layers:
        weight = _quantized(layer.weight.detach().float(), bits)
        encoder.backbone.set_submodule(name, _with_weight(layer, weight, bits))
    setattr(encoder.backbone, f"is_loaded_in_{bits}bit", True)  # else peft treats them as plain linear layers
    return sum(1 for _ in quantized_layers(encoder.backbone))


def dequantize(encoder: Encoder) -> None:
    """Replaces the quantized layers by plain float32 linear layers, also inside peft's."""
    for name, layer in list(quantized_layers(encoder.backbone)):
        encoder.backbone.set_submodule(name, _linear(layer))


def is_quantized(module: nn.Module) -> bool:
    """Whether `module` has quantized layers; without importing bitsandbytes."""
    return any(type(parameter).__name__ in ("Int8Params", "Params4bit") for parameter in module.parameters())


def quantized_layers(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """The quantized layers in `module`, by name."""
    from bitsandbytes.nn import modules as bnb

    for name, layer in module.named_modules():
        if isinstance(layer, bnb.Linear8bitLt | bnb.Linear4bit):
            yield name, layer


def weight_bytes(module: nn.Module) -> tuple[int, int]:
    """Bytes of the quantized weights with their scales, and of the same weights in float32."""
    layers = [layer for _, layer in quantized_layers(module)]
    parts = [part for layer in layers for part in (layer.weight, *_scales(layer))]
    own = sum(part.numel() * part.element_size() for part in parts)
    return own, sum(4 * layer.in_features * layer.out_features for layer in layers)


def _scales(layer: Any) -> list[Tensor]:
    state: Any = getattr(layer.weight, "quant_state", None)
    if state is None:
        _beside_its_weight(layer)
        scale = layer.weight.SCB if layer.weight.SCB is not None else layer.state.SCB
        return [scale]
    nested = [state.state2.absmax, state.state2.code] if state.nested else []
    return [state.absmax, state.code, *nested]


def _quantized(values: Tensor, bits: Bits) -> nn.Parameter:
    """A weight in 8 or 4 bits, from float32."""
    from bitsandbytes.nn.modules import Int8Params, Params4bit

    new: Any = (
        Int8Params(values, requires_grad=False, has_fp16_weights=False)
        if bits == 8
        else Params4bit(values, requires_grad=False, quant_type="nf4")
    )
    found: nn.Parameter = new.to("cpu")  # quantizes
    return found


def _with_weight(layer: nn.Linear, weight: Any, bits: Bits) -> Any:
    """A linear layer with a quantized weight in place of its own."""
    from bitsandbytes.nn import modules as bnb

    shape, has_bias = (layer.in_features, layer.out_features), layer.bias is not None
    new: Any
    if bits == 8:
        new = bnb.Linear8bitLt(*shape, bias=has_bias, has_fp16_weights=False, threshold=0.0, device="meta")
        new.register_load_state_dict_pre_hook(_take_int8)
        new.register_forward_pre_hook(_beside_its_weight)
    else:
        new = bnb.Linear4bit(*shape, bias=has_bias, compute_dtype=torch.float32, quant_type="nf4", device="meta")
        # Otherwise the first evaluation repacks the weights, and training afterwards raises.
        new.support_avx512bf16_for_cpu = False
        new.register_load_state_dict_pre_hook(_take_nf4)
        new.quant_state, weight.module = weight.quant_state, new
    new.weight, new.bias = weight, layer.bias
    return new.train(layer.training)


def _beside_its_weight(layer: Any, *_: Any) -> None:
    """Moves the scales to the weight's device.

    `to` of an enclosing module moves only the weight itself: torch assigns to `weight.data`, and the scales that
    bitsandbytes moved are lost with the discarded tensor (bitsandbytes #1769).
    """
    weight = layer.weight
    for keeper in (weight, layer.state):
        if keeper.SCB is not None and keeper.SCB.device != weight.device:
            keeper.CB, keeper.SCB = weight.data, keeper.SCB.to(weight.device)


def _take_int8(layer: Any, *_: Any) -> None:
    """Before loading weights: moves the scales back to the weight, which the first forward pass took them from."""
    if layer.weight.SCB is None:
        layer.weight.CB, layer.weight.SCB = layer.weight.data, layer.state.SCB
        layer.state.CB = layer.state.SCB = None


def _take_nf4(layer: Any, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Before loading weights: loads the scales too, since bitsandbytes would load only the packed weights."""
    from bitsandbytes.nn.modules import Params4bit

    scales = {name: state.pop(name) for name in list(state) if name.startswith(f"{prefix}weight.")}
    if scales:
        parts = {name.removeprefix(f"{prefix}weight."): value for name, value in scales.items()}
        device = layer.weight.device
        layer.weight = Params4bit.from_prequantized(state[f"{prefix}weight"], parts, device=device, module=layer)


def _linear(quantized: nn.Module) -> nn.Linear:
    from bitsandbytes.functional import dequantize_4bit, int8_vectorwise_dequant
    from bitsandbytes.nn import modules as bnb

    layer: Any = quantized
    if isinstance(quantized, bnb.Linear4bit):
        state: Any = layer.weight.quant_state
        weight = dequantize_4bit(layer.weight.data, state)
    else:
        weight = int8_vectorwise_dequant(layer.weight.data, _scales(layer)[0])
    new = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device=weight.device)
    new.weight = nn.Parameter(weight.float())
    new.bias = layer.bias
    return new
