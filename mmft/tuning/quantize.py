"""Frozen linear weights in 8 or 4 bits, by bitsandbytes, on the CPU as on a GPU.

8 bits: one scale for each output (absmax of its row); while multiplying, activations are rounded to 8 bits as well, by
way of float16 (Dettmers et al. 2022, arXiv 2208.07339, with no columns kept apart as outliers). 4 bits: NF4 with its
scales in 8 bits (Dettmers et al. 2023, arXiv 2305.14314). What comes out depends on the weights alone, so that a
finished model is made again from its base and needs no quantized weights of its own.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from mmft.models.encoder import Encoder

Bits = Literal[8, 4]


def quantize(tower: Encoder, bits: Bits) -> None:
    """Puts a quantized layer in the place of every linear one of the tower's backbone.

    Args:
        tower: on the CPU, in float32; biases, norms and embeddings stay as they are.
        bits: 8 or 4.
    """
    for name, layer in list(tower.backbone.named_modules()):
        if type(layer) is nn.Linear:
            _replace(tower.backbone, name, _int8(layer) if bits == 8 else _nf4(layer))
    setattr(tower.backbone, f"is_loaded_in_{bits}bit", True)  # or peft takes them for plain linear layers


def dequantize(tower: Encoder) -> None:
    """Puts plain float32 linear layers in their places again, also below peft's."""
    from bitsandbytes.nn import modules as bnb

    for name, module in list(tower.backbone.named_modules()):
        layer: Any = module
        if isinstance(layer, bnb.Linear8bitLt | bnb.Linear4bit):
            _replace(tower.backbone, name, _linear(layer))


def weight_bytes(tower: nn.Module) -> tuple[int, int]:
    """Bytes of the linear weights and of their scales, and what they would be in float32."""
    from bitsandbytes.nn import modules as bnb

    own = whole = 0
    for module in tower.modules():
        layer: Any = module
        if isinstance(layer, bnb.Linear8bitLt | bnb.Linear4bit):
            kept = [layer.weight, *_scales(layer)]
            own += sum(part.numel() * part.element_size() for part in kept)
            whole += 4 * layer.in_features * layer.out_features
    return own, whole


def _scales(layer: Any) -> list[Tensor]:
    state: Any = getattr(layer.weight, "quant_state", None)
    if state is None:
        scale = layer.weight.SCB if layer.weight.SCB is not None else layer.state.SCB
        return [scale]
    nested = [state.state2.absmax, state.state2.code] if state.nested else []
    return [state.absmax, state.code, *nested]


def _int8(layer: nn.Linear) -> Any:
    from bitsandbytes.nn import modules as bnb

    new = bnb.Linear8bitLt(
        layer.in_features, layer.out_features, bias=layer.bias is not None, has_fp16_weights=False, threshold=0.0
    )
    new.weight = bnb.Int8Params(layer.weight.detach().clone(), requires_grad=False, has_fp16_weights=False)
    new.bias = layer.bias
    return new.to("cpu").train(layer.training)  # which quantizes


def _nf4(layer: nn.Linear) -> Any:
    from bitsandbytes.nn import modules as bnb

    new: Any = bnb.Linear4bit(
        layer.in_features, layer.out_features, layer.bias is not None, compute_dtype=torch.float32, quant_type="nf4"
    )
    new.weight = bnb.Params4bit(layer.weight.detach().clone(), requires_grad=False, quant_type="nf4", module=new)
    new.bias = layer.bias
    new = new.to("cpu").train(layer.training)
    # Or the first evaluation packs the weights anew, and training after it raises.
    new.support_avx512bf16_for_cpu = False
    return new


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


def _replace(backbone: nn.Module, name: str, new: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(backbone.get_submodule(parent), child, new)
