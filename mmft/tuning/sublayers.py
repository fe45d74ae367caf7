"""Finds where the branches of a residual block end, right before the residual is added.

Branches are found by structure. A transformer block has one attention module and an MLP, either as one module (timm,
Dinov2, Siglip, CLIP, ModernBERT) or as two, of which the second adds the residual and norms the sum (BERT, RoBERTa,
DeBERTa, whose attention does the same). LayerScale belongs to the branch. A ConvNet's block has one branch.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from torch import nn

from mmft.models.encoder import Encoder
from mmft.tuning.targets import ATTENTION, is_linear, modules_of_blocks

_MLP = re.compile(r"mlp|ffn|feed_?forward", re.IGNORECASE)


class Branches(NamedTuple):
    """Modules of one residual block.

    Attributes:
        block: contains the others.
        attention: its output ends the attention branch; None in a ConvNet.
        mlp: its output ends the MLP branch, or a ConvNet's only branch.
        around: takes the MLP's input as first argument and returns the MLP's output, before any LayerScale. If the
            block's last module adds the residual, it is that module, which takes the MLP's input as second argument.
            None in a ConvNet, or if the MLP is split.
        adds_residual: whether `around` adds the residual.
    """

    block: nn.Module
    attention: nn.Module | None
    mlp: nn.Module
    around: nn.Module | None
    adds_residual: bool

    @property
    def ends(self) -> list[nn.Module]:
        """The modules whose outputs end the branches."""
        return [self.mlp] if self.attention is None else [self.attention, self.mlp]


def branches(encoder: Encoder) -> list[Branches]:
    """The residual blocks of an encoder in order; empty if their structure is unknown."""
    inside = modules_of_blocks(encoder)
    attentions = attention_modules(encoder)
    found: list[Branches | None]
    if attentions:
        parents = {name.rpartition(".")[0]: name.rpartition(".")[2] for name in attentions}
        found = [_transformers(encoder.backbone.get_submodule(block), child) for block, child in parents.items()]
    else:
        found = [_convnets(module) for module in inside.values()]
        found = [block for block in found if block is not None]
    return [] if None in found else [block for block in found if block is not None]


def attention_modules(encoder: Encoder) -> dict[str, nn.Module]:
    """The outermost modules in the blocks that are named attention and contain linear layers, by name."""
    found: dict[str, nn.Module] = {}
    for name, module in modules_of_blocks(encoder).items():
        is_inside = any(name.startswith(outer + ".") for outer in found)
        if ATTENTION.search(name.rpartition(".")[2]) and not is_inside and any(map(is_linear, module.modules())):
            found[name] = module
    return found


def _transformers(block: nn.Module, attention: str) -> Branches | None:
    children = dict(block.named_children())
    others = [child for name, child in children.items() if _MLP.search(name) and any(map(is_linear, child.modules()))]
    in_two = children.keys() >= {"intermediate", "output"}
    if in_two == bool(others) or len(others) > 1:
        return None
    around = children["output"] if in_two else others[0]
    ends = [_end(children[attention], block, "1"), _end(around, block, "2")]
    if None in ends or ends[1] is None:
        return None
    adds_residual = _norms_sum(around) is not None
    return Branches(block, ends[0], ends[1], around if adds_residual or not in_two else None, adds_residual)


def _end(sublayer: nn.Module, block: nn.Module, number: str) -> nn.Module | None:
    """The last module of a branch: LayerScale, the dropout before the sublayer's own residual, or the sublayer."""
    scales = [c for name, c in block.named_children() if re.fullmatch(rf"(ls|layer_?scale_?){number}", name)]
    if scales:
        return scales[0]
    adder = _norms_sum(sublayer)
    if adder is None:
        return sublayer
    dropout = getattr(adder, "dropout", None)
    return dropout if isinstance(dropout, nn.Dropout) else None


def _norms_sum(sublayer: nn.Module) -> nn.Module | None:
    """The submodule that adds the residual and norms the sum: transformers names its norm LayerNorm."""
    return next((m for m in sublayer.modules() if isinstance(getattr(m, "LayerNorm", None), nn.Module)), None)


def _convnets(module: Any) -> Branches | None:
    """The branch of a ConvNeXt, EfficientNet, RegNet or ResNet block of timm or transformers; None for others."""
    children = dict(module.named_children())
    end = None
    if children.keys() & {"conv_dw", "dwconv", "conv3"} and "drop_path" in children:
        end = children["drop_path"]
    elif {"conv1", "bn2"} <= children.keys() and hasattr(module, "downsample"):  # timm's ResNet
        end = next(children[name] for name in ("drop_path", "se", "bn3", "bn2") if name in children)
    elif {"layer", "shortcut", "activation"} <= children.keys():  # transformers' ResNet and RegNet
        end = children["layer"]
    return None if end is None else Branches(module, None, end, None, adds_residual=False)
