"""Linear layers that are never trained, in memory as their file has them: in 16 bits.

A weight that a file holds in bfloat16 or float16 takes half of float32's bytes and loses nothing. It computes as if it
were float32: without autocast, the layer makes a float32 copy for the time of one product, forward and again backward;
under autocast it is cast straight to autocast's type. Either way, outputs and gradients are those of a float32 weight
to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional

from mmft.models.precision import at_least_float32

_NARROW = (torch.bfloat16, torch.float16)
_ROWS = 4096  # of a weight that are compared at once


class NarrowLinear(nn.Linear):
    """A linear layer whose frozen weight may be in 16 bits."""

    compute_dtype = torch.float32
    """In which peft makes what it adds to the layer."""

    def forward(self, given: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        if self.weight.dtype not in _NARROW or torch.is_autocast_enabled(given.device.type):
            return super().forward(given)
        wide = self.weight.float()
        with saved_tensors_hooks(partial(_without_copy, wide.untyped_storage().data_ptr(), self.weight), _again):
            return functional.linear(given, wide, self.bias)


class FrozenLayers:
    """How linear layers whose weights are never trained are kept: in 16 bits where these hold them."""

    def weight(self, values: Tensor) -> nn.Parameter:
        """A weight as it is kept, from its values in float32."""
        return nn.Parameter(narrowed(values))

    def layer(self, layer: nn.Linear) -> nn.Linear:
        """A layer that computes with a weight of `weight`, which `layer` has."""
        if layer.weight.dtype not in _NARROW:
            return layer
        new = NarrowLinear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
        new.weight, new.bias = layer.weight, layer.bias
        return new.train(layer.training)


def narrowed(values: Tensor) -> Tensor:
    """The same values in 16 bits if these hold every one of them, else as they are."""
    for dtype in _NARROW:
        if all(torch.equal(rows.to(dtype).to(rows.dtype), rows) for rows in values.split(_ROWS)):
            return values.to(dtype)
    return values


def kept_layers(model: nn.Module, parts: Iterable[tuple[nn.Module, FrozenLayers]]) -> dict[str, FrozenLayers]:
    """How each linear layer in some parts of a model of transformers is kept, by its name in the model.

    Only plain ones, since classes of a model's own use their weights in other ways; and not one with the first weight
    of a model within the model, whose dtype transformers takes for that in which the model computes.
    """
    firsts = {id(next(inner.parameters())) for inner in model.modules() if hasattr(inner, "dtype")}
    form = {
        id(layer): frozen
        for part, frozen in parts
        for layer in part.modules()
        if type(layer) is nn.Linear and id(layer.weight) not in firsts
    }
    return {name: form[id(layer)] for name, layer in model.named_modules() if id(layer) in form}


def widen(module: nn.Module) -> None:
    """Replaces weights in 16 bits by float32 ones, and their layers by plain ones."""
    for name, layer in list(module.named_modules()):
        if isinstance(layer, NarrowLinear):
            new = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
            weight = at_least_float32(layer.weight.detach())
            new.weight, new.bias = nn.Parameter(weight, requires_grad=layer.weight.requires_grad), layer.bias
            module.set_submodule(name, new.train(layer.training))


def computing_dtype(module: nn.Module) -> torch.dtype:
    """The dtype in which a module computes without autocast: float64 if its weights are, else float32."""
    is_double = any(parameter.dtype == torch.float64 for parameter in module.parameters())
    return torch.float64 if is_double else torch.float32


def _without_copy(place: int, weight: Tensor, saved: Tensor) -> Any:
    """What the backward pass keeps of a tensor: of the float32 copy at `place`, its weight and how it is seen."""
    if saved.untyped_storage().data_ptr() != place:
        return saved
    return weight, saved.size(), saved.stride(), saved.storage_offset()


def _again(kept: Any) -> Tensor:
    """The tensor that `_without_copy` was given."""
    if isinstance(kept, Tensor):
        return kept
    weight, *view = kept
    return torch.as_strided(weight.float(), *view)
