"""The ordered layers of an encoder, from its structure.

Layer 0 precedes the blocks (patches, stem, embeddings, positions, class tokens), layers 1 to n are the blocks (a
ConvNet's stages), and layer n + 1 follows them (the final norm). Freezing and layer-wise learning rates use these
numbers. They follow the order in which the library registers its modules, which is the order of execution, so numbers
never decrease.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn


def layer_of(backbone: nn.Module) -> dict[str, int]:
    """The layer number of every parameter of `backbone`, by name.

    Parameters outside the blocks belong to layer 0 if they are registered before the blocks or are embeddings
    (DeBERTa registers its relative positions, used by every block, after them); otherwise to the last layer.
    """
    numbers = _numbers(backbone, blocks(backbone))
    return {name: numbers[name.rpartition(".")[0]] for name, _ in backbone.named_parameters()}


def module_layers(backbone: nn.Module) -> dict[str, int]:
    """The layer number of every module that lies within one layer; containers of several layers are omitted."""
    found, names = blocks(backbone), list(_places(backbone))
    inside = {names[place] for block in found for place in block}
    above = {parent for block in found for parent in _parents(names[block.start])} - inside
    return {name: layer for name, layer in _numbers(backbone, found).items() if name not in above}


def _numbers(backbone: nn.Module, found: list[range]) -> dict[str, int]:
    """The layer of every module's own parameters, by module name."""
    embeddings = {m for m, module in backbone.named_modules() if isinstance(module, nn.Embedding)}
    numbers = {}
    for name, place in _places(backbone).items():
        inside = next((number for number, block in enumerate(found, 1) if place in block), None)
        before = not found or place < found[0].start or name in embeddings
        numbers[name] = inside if inside is not None else 0 if before else len(found) + 1
    return numbers


def _parents(name: str) -> list[str]:
    """The ancestors of the module `name`, the root (an empty name) first."""
    parts = name.split(".")
    return [".".join(parts[:length]) for length in range(len(parts))] if name else []


def blocks(backbone: nn.Module) -> list[range]:
    """The blocks in order, each as the range of its modules in `named_modules()`; all have parameters.

    timm's `feature_info` names the modules that output features: children of one list (a ViT's blocks, a ConvNeXt's
    stages), which are then the blocks, or single modules (a ResNet's layer1 to layer4), at which blocks end. If it
    names no existing module, and for all of transformers, the children of the largest list are the blocks.
    """
    found = _named_by_timm(backbone) or _children(backbone, _largest_list(backbone))
    filled = {place for name, place in _places(backbone).items() if _has_own_parameters(backbone, name)}
    return [block for block in found if not filled.isdisjoint(block)]


def block_modules(backbone: nn.Module) -> list[nn.Module]:
    """The blocks that consist of a single module: a transformer's layers, a ConvNeXt's stages, but not a VGG's."""
    names = [name for name, _ in backbone.named_modules()]
    found = [(names[block.start], block) for block in blocks(backbone)]
    modules = [backbone.get_submodule(name) for name, block in found if _inside(name, names) == block]
    return [
        module for module in modules if not isinstance(module, (nn.ModuleList, nn.ModuleDict))
    ]  # these are never called


@contextmanager
def evaluated(*parts: nn.Module) -> Iterator[None]:
    """Context in which these modules are in eval mode; afterwards every module is in its own again."""
    modes = [(module, module.training) for part in parts for module in part.modules()]
    for part in parts:
        part.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def mix_in(module: nn.Module, kind: type) -> None:
    """Adds `kind` as a mixin to a module's class, keeping the class name, state-dict names and copying intact."""
    own = type(module)
    module.__class__ = type(own.__name__, (kind, own), {"__module__": own.__module__})


def _named_by_timm(backbone: nn.Module) -> list[range]:
    info: Any = getattr(backbone, "feature_info", None)
    modules = dict(backbone.named_modules())
    # mvitv2, hrnet and twins list modules that do not exist.
    known = [e for e in info if e.get("module") in modules] if isinstance(info, list) else []
    lists = Counter(_list_above(entry["module"]) for entry in known)
    lists.pop("", None)
    if lists:
        return _children(backbone, lists.most_common(1)[0][0])  # ties: the first, for any hash seed
    return _between(known, _places(backbone)) if len(known) > 1 else []


def _list_above(name: str) -> str:
    """The path before the first number, `blocks` for `blocks.3.act`; empty without a number."""
    parts = name.split(".")
    number = next((i for i, part in enumerate(parts) if part.isdigit()), 0)
    return ".".join(parts[:number])


def _between(known: list[Mapping[str, Any]], places: dict[str, int]) -> list[range]:
    """Blocks that end at a module that outputs features, and start where the previous block ends."""
    inside = [_inside(entry["module"], places) for entry in known]
    stem = known[0].get("reduction", 0) <= 2  # half resolution at most: before the first stage
    starts = [inside[0].start, *(block.stop for block in inside[:-1])]
    found = [range(start, block.stop) for start, block in zip(starts, inside, strict=True)]
    return found[1:] if stem else found


def _children(backbone: nn.Module, parent: str | None) -> list[range]:
    if parent is None:
        return []
    places = _places(backbone)
    names = [f"{parent}.{child}" if parent else child for child, _ in backbone.get_submodule(parent).named_children()]
    return [_inside(name, places) for name in names if name in places]


def _largest_list(backbone: nn.Module) -> str | None:
    lists = [
        (sum(p.numel() for p in module.parameters()), -name.count("."), name)
        for name, module in backbone.named_modules()
        if isinstance(module, (nn.ModuleList, nn.Sequential)) and len(module) > 0
    ]
    return max(lists)[2] if lists else None


def _places(backbone: nn.Module) -> dict[str, int]:
    return {name: place for place, (name, _) in enumerate(backbone.named_modules())}


def _inside(name: str, places: Iterable[str]) -> range:
    """The contiguous range of places of a module and its descendants."""
    own = [place for place, other in enumerate(places) if other == name or other.startswith(name + ".")]
    return range(own[0], own[-1] + 1)


def _has_own_parameters(backbone: nn.Module, name: str) -> bool:
    return any(True for _ in backbone.get_submodule(name).parameters(recurse=False))
