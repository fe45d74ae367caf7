"""Linear layers and embeddings that are never trained, in memory as their file has them: in 16 bits.

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
        with saved_tensors_hooks(partial(_without_copy, wide, self.weight), _again):
            return functional.linear(given, wide, self.bias)


class NarrowEmbedding(nn.Embedding):
    """An embedding whose frozen weight may be in 16 bits."""

    def forward(self, ids: Tensor) -> Tensor:
        """(...) ids -> (..., D), at least float32."""
        return at_least_float32(super().forward(ids))


class FrozenLayers:
    """How linear layers and embeddings are kept whose weights are never trained: in 16 bits where these hold them."""

    def weight(self, _: nn.Module, values: Tensor) -> nn.Parameter:
        """The weight of a linear layer or an embedding as it is kept, from its values in float32."""
        return nn.Parameter(narrowed(values))

    def layer(self, layer: nn.Module) -> nn.Module:
        """A layer that computes with a weight of `weight`, which `layer` has."""
        weight: Any = layer.weight
        if weight.dtype not in _NARROW:
            return layer
        if isinstance(layer, nn.Embedding):
            embedding = NarrowEmbedding(
                layer.num_embeddings, layer.embedding_dim, layer.padding_idx, device="meta", dtype=weight.dtype
            )
            embedding.weight = weight
            return embedding.train(layer.training)
        assert isinstance(layer, nn.Linear)
        linear = NarrowLinear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
        linear.weight, linear.bias = weight, layer.bias
        return linear.train(layer.training)


def narrowed(values: Tensor) -> Tensor:
    """The same values in 16 bits if these hold every one of them, else as they are."""
    for dtype in _NARROW:
        if all(torch.equal(rows.to(dtype).to(rows.dtype), rows) for rows in values.split(_ROWS)):
            return values.to(dtype)
    return values


def kept_layers(model: nn.Module, parts: Iterable[tuple[nn.Module, FrozenLayers]]) -> dict[str, FrozenLayers]:
    """How each linear layer and embedding in some parts of a model is kept, by its name in the model.

    Only plain ones: classes of a model's own use their weights in other ways.
    """
    form = {
        id(layer): frozen
        for part, frozen in parts
        for layer in part.modules()
        if type(layer) in (nn.Linear, nn.Embedding)
    }
    return {name: form[id(layer)] for name, layer in model.named_modules() if id(layer) in form}


def widen(module: nn.Module) -> None:
    """Replaces weights in 16 bits by float32 ones, and their layers by plain ones; tied weights stay tied."""
    wide: dict[int, nn.Parameter] = {}
    for name, layer in list(module.named_modules()):
        if not isinstance(layer, NarrowLinear | NarrowEmbedding):
            continue
        own = layer.weight
        weight = wide.setdefault(id(own), nn.Parameter(at_least_float32(own.detach()), requires_grad=own.requires_grad))
        new: Any
        if isinstance(layer, NarrowLinear):
            new = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
            new.bias = layer.bias
        else:
            new = nn.Embedding(layer.num_embeddings, layer.embedding_dim, layer.padding_idx, device="meta")
        new.weight = weight
        module.set_submodule(name, new.train(layer.training))


def computing_dtype(module: nn.Module) -> torch.dtype:
    """The dtype in which a module computes without autocast: float64 if its weights are, else float32."""
    is_double = any(parameter.dtype == torch.float64 for parameter in module.parameters())
    return torch.float64 if is_double else torch.float32


def _without_copy(wide: Tensor, weight: Tensor, saved: Tensor) -> Any:
    """What the backward pass keeps of a tensor: of the float32 copy, the weight in 16 bits and how it is seen."""
    if saved.untyped_storage().data_ptr() != wide.untyped_storage().data_ptr():
        return saved
    return weight, saved.size(), saved.stride(), saved.storage_offset()


def _again(kept: Any) -> Tensor:
    """The tensor that `_without_copy` was given."""
    if isinstance(kept, Tensor):
        return kept
    weight, *view = kept
    return torch.as_strided(weight.float(), *view)
