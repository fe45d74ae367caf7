"""Bottleneck adapters: small networks in the residual blocks, initialised to the identity.

Legend: B batch, N tokens, D width, H W height and width of a feature map.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from mmft.models.encoder import Encoder
from mmft.tuning.methods.inserted import Inserted
from mmft.tuning.probe import first_of, replaced, shapes
from mmft.tuning.sublayers import Branches, branches


class Bottleneck(nn.Module):
    """Down-projection, GELU and up-projection; the last layer starts at zero.

    Args:
        width: D, of input and output.
        bottleneck: hidden width.
        scale: factor of the output.
        is_map: whether the input is (B, D, H, W) instead of (..., D).
    """

    def __init__(self, width: int, bottleneck: int, scale: float, is_map: bool) -> None:
        super().__init__()
        self.down: nn.Module = nn.Conv2d(width, bottleneck, 1) if is_map else nn.Linear(width, bottleneck)
        up = nn.Conv2d(bottleneck, width, 1) if is_map else nn.Linear(bottleneck, width)
        self.up: nn.Module = up
        self.scale = scale
        nn.init.zeros_(up.weight)
        if up.bias is not None:
            nn.init.zeros_(up.bias)

    def forward(self, features: Tensor) -> Tensor:
        """(..., D) or (B, D, H, W) -> the same shape."""
        out: Tensor = self.scale * self.up(functional.gelu(self.down(features)))  # zeros at first
        return out

    # Hooks are methods of the module, so that copies of the model use their own adapters.

    def after(self, module: nn.Module, given: tuple[Any, ...], output: Any) -> Any:
        """Forward hook: adapts the output of a branch."""
        features = first_of(output)
        return replaced(output, features + self(features))

    def beside(self, module: nn.Module, given: tuple[Any, ...], output: Any) -> Any:
        """Forward hook: adds the adapted input of a module to its output."""
        return replaced(output, first_of(output) + self(given[0]))

    def into_residual(self, module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        """Forward pre-hook: adapts the residual, the module's second argument, which is the MLP's input."""
        return (given[0], given[1] + self(given[1]), *given[2:])


class Adapters(Inserted):
    """Bottleneck adapters (Houlsby et al. 2019, arXiv 1902.00751).

    Args:
        key: as in `TuningMethod`.
        kind: `houlsby`: after attention and MLP of every block, before the residual is added; `pfeiffer` (Pfeiffer et
            al. 2021, arXiv 2005.00247): after the MLP only, in a ConvNet after the branch of every residual block;
            `parallel` (He et al. 2022, arXiv 2110.04366): beside the MLP, on the same input.
        width: of the bottleneck; None for 48.
        scale: factor of the adapter's output.
        lr: as in `TuningMethod`.
    """

    name = "adapters"
    default_lr = 5e-4
    kept_factors = frozenset({"down"})

    def __init__(
        self, key: str, kind: str = "pfeiffer", width: int | None = None, scale: float = 1.0, lr: float | None = None
    ) -> None:
        super().__init__(key, lr)
        self.kind = kind
        self.width = 48 if width is None else width
        self.scale = scale

    def insert(self, encoder: Encoder) -> list[nn.Module]:
        """Adds one adapter to each block, two with `houlsby`."""
        found = branches(encoder)
        seen = shapes(encoder, [end for block in found for end in block.ends])
        if is_convnet := all(block.attention is None for block in found):
            found = [block for block in found if seen[block.mlp]]  # a block without a residual has no branch
        if not found or any(len(seen[end]) != 1 or seen[end][0][1] is None for block in found for end in block.ends):
            raise self.refusal(encoder, "its blocks are neither attention and MLP nor a known ConvNet's", "lora")
        if is_convnet and self.kind != "pfeiffer":
            name = encoder.source.name
            raise self.error(
                "kind", f"{self.kind} is for blocks of attention and MLP, which {name} does not have. Type pfeiffer"
            )
        if self.kind == "parallel" and any(block.around is None for block in found):
            raise self.error("kind", f"the MLPs of {encoder.source.name} are split. Type pfeiffer or houlsby")
        return [adapter for block in found for adapter in self._fill(block, seen)]

    def _fill(self, block: Branches, seen: dict[nn.Module, Any]) -> list[nn.Module]:
        """Adds the adapters as children of the block, so that they get its layer number."""

        def adapter(name: str, end: nn.Module) -> Bottleneck:
            shape, is_map = seen[end][0][1], block.attention is None
            new = Bottleneck(shape[1] if is_map else shape[-1], self.width, self.scale, is_map)
            block.block.add_module(name, new)
            return new

        mlp = adapter("adapter" if block.attention is None else "mlp_adapter", block.mlp)
        if self.kind == "parallel" and block.around is not None:
            if block.adds_residual:
                block.around.register_forward_pre_hook(mlp.into_residual)
            else:
                block.around.register_forward_hook(mlp.beside)
            return [mlp]
        block.mlp.register_forward_hook(mlp.after)
        if self.kind != "houlsby" or block.attention is None:
            return [mlp]
        attention = adapter("attention_adapter", block.attention)
        block.attention.register_forward_hook(attention.after)
        return [attention, mlp]
