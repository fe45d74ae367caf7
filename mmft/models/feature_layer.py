"""An image encoder that ends at one of its blocks, so that its tokens are those in front of the final norm.

Legend: B batch, N image tokens, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mmft.errors import UserError
from mmft.models.layers import block_modules, blocks, evaluated, layer_of


def end_at(backbone: Any, layer: int, where: str) -> dict[str, nn.Module]:
    """Drops the blocks above one, and whatever comes after the blocks.

    Args:
        backbone: a timm or transformers model.
        layer: number of the last block to keep: from 1 on, or from -1 for the last one backwards.
        where: key and value, for messages.

    Returns:
        The modules that came after the blocks, by name; none of them is part of the model any more.

    Raises:
        UserError: it has no such block, or its blocks are not one list.
    """
    kept = block_modules(backbone)
    count = len(blocks(backbone))
    parent = next((module for module in backbone.modules() if _is_list_of(module, kept)), None)
    if parent is None or len(kept) != count:
        raise UserError(f"{where}: its blocks are not one list of modules that it could end in. Leave it out")
    number = layer if layer > 0 else count + 1 + layer
    if not 1 <= number <= count:
        raise UserError(f"{where}: it has {count} blocks. Type a number from 1 to {count}, or from -{count} to -1")
    behind = {name.rpartition(".")[0] for name, own in layer_of(backbone).items() if own == count + 1}
    dropped = {name: backbone.get_submodule(name) for name in sorted(behind)}
    for name in dropped:
        backbone.set_submodule(name, nn.Identity())
    del parent[number:]
    _declare(getattr(backbone, "config", None), count, number)
    return dropped


def _declare(config: Any, count: int, number: int) -> None:
    """Tells a config of transformers that there are `number` of `count` blocks."""
    if getattr(config, "num_hidden_layers", None) != count:
        return
    config.num_hidden_layers = number
    if hasattr(config, "stage_names"):  # of a backbone that may return several of its layers
        config.stage_names = config.stage_names[: number + 1]
        config.set_output_features_output_indices(None, None)


def _is_list_of(module: nn.Module, children: list[nn.Module]) -> bool:
    own = list(module.children())
    alike = len(own) == len(children) and all(a is b for a, b in zip(own, children, strict=True))
    return bool(own) and isinstance(module, nn.ModuleList | nn.Sequential) and alike


def check_end(encoder: Any, where: str) -> None:
    """Compares the encoder's tokens of one image with the output of its last block.

    Args:
        encoder: an image encoder whose backbone `end_at` has cut.
        where: key and value, for messages.

    Raises:
        UserError: they differ, or are a feature map.
    """
    found: list[Any] = []
    handle = block_modules(encoder.backbone)[-1].register_forward_hook(lambda *given: found.append(given[-1]))
    side = encoder.image_size
    pixels = torch.randint(0, 256, (1, 3, side, side), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    try:
        with evaluated(encoder), torch.no_grad():
            tokens = encoder(pixels).tokens  # (1, N, D)
    finally:
        handle.remove()
    output = found[-1][0] if isinstance(found[-1], tuple) else found[-1]
    if not isinstance(output, Tensor) or output.shape != tokens.shape or not torch.equal(output, tokens):
        raise UserError(
            f"{where}: its blocks do not return the tokens of a vision transformer, or it computes more after them "
            "than a norm. Leave it out"
        )


@contextmanager
def with_end(encoder: Any) -> Iterator[None]:
    """Context in which an encoder's backbone has again what came after its blocks, as in files of its library."""
    dropped: Mapping[str, nn.Module] = getattr(encoder, "after_blocks", None) or {}
    for name, module in dropped.items():
        encoder.backbone.set_submodule(name, module)
    try:
        yield
    finally:
        for name in dropped:
            encoder.backbone.set_submodule(name, nn.Identity())
