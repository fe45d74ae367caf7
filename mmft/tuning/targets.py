"""Selects the layers that a method adapts, by names that work for any encoder.

Only layers inside the blocks count: a pooler or head after them may get no gradient, and these methods were not made
for patch embeddings or stems. A linear layer below a module named attention (`attn`, `self_attn`, `attention`,
`SelfAttention`) belongs to `attention`; all others belong to `mlp`.
"""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from mmft.errors import UserError
from mmft.models.encoder import Encoder
from mmft.models.frozen_layers import NarrowLinear
from mmft.models.layers import module_layers

ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)


def target_modules(encoder: Encoder, key: str, targets: str | None, pattern: str | None) -> list[str]:
    """Names of the selected modules of `encoder.backbone` in order: linear layers, or a ConvNet's convolutions.

    Args:
        encoder: before anything is added to it.
        key: the method's config key, for messages.
        targets: `attention`, `mlp`, `all`; None for attention, or all without attention.
        pattern: instead of `targets`, a regular expression that is searched for in the names.

    Raises:
        UserError: no layer is selected.
    """
    linear = _matrices(encoder)
    attention = {name for name in linear if ATTENTION.search(name)}
    if pattern is not None:
        chosen = [name for name in linear if re.search(pattern, name)]
        return _some(chosen, f"{key}.pattern: {pattern!r} matches no layer of {encoder.source.name}", linear)
    if targets is None:
        targets = "attention" if attention else "all"
    wanted = {"attention": attention, "mlp": linear.keys() - attention, "all": linear.keys()}[targets]
    chosen = [name for name in linear if name in wanted]
    return _some(chosen, f"{key}.targets={targets}: {encoder.source.name} has no such layers", linear)


def modules_of_blocks(encoder: Encoder) -> dict[str, nn.Module]:
    """All modules in the blocks of `encoder.backbone`, including the blocks, by name.

    Those whose parameters do not contribute to the output are left out (LLaVA's last vision block).
    """
    modules = dict(encoder.backbone.named_modules())
    layers, top = module_layers(encoder.backbone), encoder.top_layer  # each walks the whole encoder: only once
    return {name: modules[name] for name, layer in layers.items() if 0 < layer < top and _is_used(modules[name])}


def _is_used(module: nn.Module) -> bool:
    parameters = list(module.parameters())
    # Weights that were quantized while loading have no gradient that would tell.
    return not parameters or any(p.requires_grad or not p.is_floating_point() for p in parameters)


def _matrices(encoder: Encoder) -> dict[str, nn.Module]:
    """The linear layers of the blocks, or their convolutions if there are none, as in a ResNet."""
    inside = modules_of_blocks(encoder)
    linear = {name: module for name, module in inside.items() if is_linear(module)}
    return linear or {name: module for name, module in inside.items() if _is_plain_convolution(module)}


def is_linear(module: nn.Module) -> bool:
    """Whether the layer is a plain matrix product that its parent calls, so that it can be replaced."""
    kind = type(module)
    return kind in (nn.Linear, NarrowLinear) or kind.__name__ in ("Linear8bitLt", "Linear4bit", "Conv1D")  # of GPT-2


def _is_plain_convolution(module: Any) -> bool:
    """Whether it is an ungrouped convolution; depthwise weights have no rank worth reducing."""
    return isinstance(module, nn.Conv2d) and module.groups == 1


def _some(chosen: list[str], problem: str, there: dict[str, nn.Module]) -> list[str]:
    if not chosen:
        some = ", ".join(list(there)[:4])
        raise UserError(f"{problem}; its blocks have {some or 'no linear layer and no convolution'}, ...")
    return chosen
