"""The ordered layers of an encoder, from its structure.

Layer 0 is what comes before the blocks (patches, embeddings, positions, class tokens), layers 1 to n are
the blocks (a ConvNet's stages), layer n + 1 is what comes after them (the final norm). Freezing and
layer-wise learning rates speak of these numbers.
"""

from __future__ import annotations

from torch import nn


def layer_of(backbone: nn.Module) -> dict[str, int]:
    """The layer number of every parameter of `backbone`, by the parameter's name.

    Parameters outside the blocks belong to layer 0 if they were registered before the blocks, or are
    embeddings (DeBERTa's relative positions are used by every block but registered after them);
    else to the last layer.
    """
    blocks = block_names(backbone)
    names = [name for name, _ in backbone.named_parameters()]
    inside = {name: i for name in names for i, b in enumerate(blocks, 1) if name.startswith(b + ".")}
    first = min((names.index(name) for name in inside), default=len(names))
    embeddings = {f"{m}.weight" for m, module in backbone.named_modules() if isinstance(module, nn.Embedding)}
    last = len(blocks) + 1
    return {
        name: inside.get(name, 0 if index < first or name in embeddings else last) for index, name in enumerate(names)
    }


def block_names(backbone: nn.Module) -> list[str]:
    """The names of the blocks in order: timm's own list where it has one, else the largest list of modules."""
    return _timm_blocks(backbone) or _largest_list(backbone)


def _timm_blocks(backbone: nn.Module) -> list[str]:
    info = getattr(backbone, "feature_info", None)
    if not isinstance(info, list):
        return []
    names = [entry["module"] for entry in info]
    parents = {name.rpartition(".")[0] for name in names}
    if parents == {""}:  # a ResNet: layer1 to layer4 stand at the top, beside a stem without parameters
        return [name for name in names if _size(backbone.get_submodule(name))]
    parent = next(iter(parents - {""}))
    return [f"{parent}.{child}" for child, _ in backbone.get_submodule(parent).named_children()]


def _largest_list(backbone: nn.Module) -> list[str]:
    lists = [
        (_size(module), name)
        for name, module in backbone.named_modules()
        if isinstance(module, (nn.ModuleList, nn.Sequential)) and len(module) > 0
    ]
    if not lists:
        return []
    _, parent = max(lists, key=lambda found: (found[0], -found[1].count(".")))
    return [f"{parent}.{child}" for child, _ in backbone.get_submodule(parent).named_children()]


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
