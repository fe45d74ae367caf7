"""The ordered layers of an encoder, from its structure.

Layer 0 is what comes before the blocks (patches, stem, embeddings, positions, class tokens), layers 1 to n
are the blocks (a ConvNet's stages), layer n + 1 is what comes after them (the final norm). Freezing and
layer-wise learning rates speak of these numbers. They come from the order in which the library registers
its modules, which is the order in which it runs them, so that they never fall from one to the next.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn


def layer_of(backbone: nn.Module) -> dict[str, int]:
    """The layer number of every parameter of `backbone`, by the parameter's name.

    Parameters outside the blocks belong to layer 0 if they were registered before the blocks, or are
    embeddings (DeBERTa's relative positions are used by every block but registered after them);
    else to the last layer.
    """
    numbers = _numbers(backbone, blocks(backbone))
    return {name: numbers[name.rpartition(".")[0]] for name, _ in backbone.named_parameters()}


def module_layers(backbone: nn.Module) -> dict[str, int]:
    """The layer number of every module that is in one layer alone; what holds several of them is left out."""
    found, names = blocks(backbone), list(_places(backbone))
    inside = {names[place] for block in found for place in block}
    above = {parent for block in found for parent in _parents(names[block.start])} - inside
    return {name: layer for name, layer in _numbers(backbone, found).items() if name not in above}


def _numbers(backbone: nn.Module, found: list[range]) -> dict[str, int]:
    """Of every module the layer that what it has of its own belongs to."""
    embeddings = {m for m, module in backbone.named_modules() if isinstance(module, nn.Embedding)}
    numbers = {}
    for name, place in _places(backbone).items():
        inside = next((number for number, block in enumerate(found, 1) if place in block), None)
        before = not found or place < found[0].start or name in embeddings
        numbers[name] = inside if inside is not None else 0 if before else len(found) + 1
    return numbers


def _parents(name: str) -> list[str]:
    """The modules that hold the module `name`, the root (an empty name) first."""
    parts = name.split(".")
    return [".".join(parts[:length]) for length in range(len(parts))] if name else []


def blocks(backbone: nn.Module) -> list[range]:
    """The blocks in order, each as the places of its modules in `named_modules()`; all have parameters.

    timm says where its features come out (`feature_info`): in the children of one list (a ViT's blocks, a
    ConvNeXt's stages), which are the blocks then, or at named places (a ResNet's layer1 to layer4), which
    the blocks end at. Where it names nothing that exists, as for all of transformers, the largest list counts.
    """
    found = _named_by_timm(backbone) or _children(backbone, _largest_list(backbone))
    filled = {place for name, place in _places(backbone).items() if _has_own_parameters(backbone, name)}
    return [block for block in found if not filled.isdisjoint(block)]


def block_modules(backbone: nn.Module) -> list[nn.Module]:
    """The blocks that are one module each: a transformer's layers, a ConvNeXt's stages, but not a VGG's."""
    names = [name for name, _ in backbone.named_modules()]
    found = [(names[block.start], block) for block in blocks(backbone)]
    modules = [backbone.get_submodule(name) for name, block in found if _inside(name, names) == block]
    return [
        module for module in modules if not isinstance(module, (nn.ModuleList, nn.ModuleDict))
    ]  # nobody calls these


def mix_in(module: nn.Module, kind: type) -> None:
    """Puts `kind` in front of a module's class, so that its name, its state's names and copies of it stay right."""
    own = type(module)
    module.__class__ = type(own.__name__, (kind, own), {"__module__": own.__module__})


def _named_by_timm(backbone: nn.Module) -> list[range]:
    info: Any = getattr(backbone, "feature_info", None)
    modules = dict(backbone.named_modules())
    # mvitv2, hrnet and twins name modules that they do not have.
    known = [e for e in info if e.get("module") in modules] if isinstance(info, list) else []
    lists = Counter(_list_above(entry["module"]) for entry in known)
    lists.pop("", None)
    if lists:
        return _children(backbone, lists.most_common(1)[0][0])  # of equals the first, whatever the hash seed
    return _between(known, _places(backbone)) if len(known) > 1 else []


def _list_above(name: str) -> str:
    """`blocks` of `blocks.3.act`: what stands before the first number; empty where there is none."""
    parts = name.split(".")
    number = next((i for i, part in enumerate(parts) if part.isdigit()), 0)
    return ".".join(parts[:number])


def _between(known: list[Mapping[str, Any]], places: dict[str, int]) -> list[range]:
    """Blocks that end where a feature comes out, and start where the one before ended."""
    inside = [_inside(entry["module"], places) for entry in known]
    stem = known[0].get("reduction", 0) <= 2  # half the pixels: no stage has run yet
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
    """The places of a module and of what is in it: they follow one another."""
    own = [place for place, other in enumerate(places) if other == name or other.startswith(name + ".")]
    return range(own[0], own[-1] + 1)


def _has_own_parameters(backbone: nn.Module, name: str) -> bool:
    return any(True for _ in backbone.get_submodule(name).parameters(recurse=False))
