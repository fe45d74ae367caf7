"""Prefix tuning: learned keys and values in front of the tokens' own, in the attention of every block.

Both timm and transformers pass queries, keys and values to torch's `scaled_dot_product_attention`; the prefix is
prepended there, after projections, norms and rotary positions. The sequence keeps its length, so that no positions are
used up and only the row's own tokens are pooled and passed on. Texts use this implementation, too: peft passes the
prefix as a decoder's cache, which among encoders only BERT and RoBERTa accept, and which shifts the text's positions.

Legend: B batch, A attention heads, Q queries, K keys, P prefix length, E width of a head.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from mmft.models.encoder import Encoder
from mmft.models.layers import mix_in
from mmft.models.text_encoder import TextEncoder
from mmft.tuning.masks import causal_with_keys, with_keys
from mmft.tuning.methods.inserted import Inserted, check_cache
from mmft.tuning.probe import run_once
from mmft.tuning.sublayers import attention_modules

_ATTENTION = functional.scaled_dot_product_attention


class Prefix(nn.Module):
    """Learned keys (A, P, E) and values (A, P, E), initialised with small random numbers.

    Args:
        keys: A and E of the keys.
        values: A and E of the values.
        length: P.
    """

    def __init__(self, keys: tuple[int, int], values: tuple[int, int], length: int) -> None:
        super().__init__()
        self.keys = nn.Parameter(0.02 * torch.randn(keys[0], length, keys[1]))
        self.values = nn.Parameter(0.02 * torch.randn(values[0], length, values[1]))

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        **more: Any,
    ) -> Tensor:
        """Torch's attention with the prefix, which every query attends to.

        Args:
            query: (B, A, Q, E).
            key: (B, A, K, E).
            value: (B, A, K, E).
            attn_mask: broadcasts to (B, A, Q, K).
            dropout_p: as in torch.
            is_causal: as in torch.
            more: as in torch.

        Returns:
            (B, A, Q, E).
        """
        length = self.keys.shape[-2]
        if attn_mask is not None:
            attn_mask = with_keys(attn_mask, length)
        elif is_causal:
            attn_mask = causal_with_keys(query.shape[-2], length, query.device)
        key, value = _in_front(self.keys, key), _in_front(self.values, value)  # (B, A, P + K, E)
        return _ATTENTION(query, key, value, attn_mask=attn_mask, dropout_p=dropout_p, **more)


def _in_front(own: Tensor, others: Tensor) -> Tensor:
    """(A', P, E) and (B, A, K, E) -> (B, A, P + K, E); A is A', or a multiple where several queries share a head."""
    repeated = own.to(others.dtype).repeat_interleave(others.shape[1] // len(own), dim=0)
    return torch.cat([repeated.expand(len(others), -1, -1, -1), others], dim=-2)


class _Attending(TorchFunctionMode):
    """Context in which torch's attention is replaced by another function."""

    def __init__(self, attend: Any) -> None:
        super().__init__()
        self.attend = attend

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return (self.attend if func is _ATTENTION else func)(*args, **(kwargs or {}))


class Prefixed:
    """Mixin for an attention module's class, which keeps names and copying intact."""

    prefix: Prefix

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The module's own forward, with the prefix in its attention."""
        with _Attending(self.prefix):
            return super().forward(*args, **kwargs)  # type: ignore[misc] # of the module's class


class PrefixTuning(Inserted):
    """Learned keys and values in every block's attention (Li and Liang 2021, arXiv 2101.00190), without their MLP.

    Args:
        key: as in `TuningMethod`.
        length: prefix length in every block; None for 10.
        lr: as in `TuningMethod`.
    """

    name = "prefix"
    default_lr = 5e-3

    def __init__(self, key: str, length: int | None = None, lr: float | None = None) -> None:
        super().__init__(key, lr)
        self.length = 10 if length is None else length

    def insert(self, encoder: Encoder) -> list[nn.Module]:
        """Adds one prefix to each attention module, as its child."""
        modules = list(attention_modules(encoder).values())
        if not modules:
            raise self.refusal(encoder, "its blocks have no attention", "adapters", "lora")
        added: list[nn.Module] = []
        for module, calls in _calls(encoder, modules).items():
            if len(calls) != 1 or any(len(shape) != 4 for shape in calls[0]):
                name = type(module).__name__
                why = f"keys and values of its {name} are not handed to torch's attention"
                raise self.refusal(encoder, why, "prompt" if isinstance(encoder, TextEncoder) else "adapters", "lora")
            keys, values = ((_heads(module, shape), shape[3]) for shape in calls[0])
            prefix = Prefix(keys, values, self.length)
            module.add_module("prefix", prefix)
            mix_in(module, Prefixed)
            added.append(prefix)
        check_cache(self, encoder)
        return added


def _heads(module: Any, shape: torch.Size) -> int:
    """The heads of keys or values (B, A, K, E), each once where transformers repeats them for its queries."""
    config = getattr(module, "config", None)
    own = getattr(config, "num_key_value_heads", None)
    return own if isinstance(own, int) and shape[1] % own == 0 else shape[1]


def _calls(encoder: Encoder, modules: Iterable[nn.Module]) -> dict[nn.Module, list[tuple[torch.Size, torch.Size]]]:
    """The shapes of keys and values in every call of torch's attention by each module in one forward pass."""
    found: dict[nn.Module, list[tuple[torch.Size, torch.Size]]] = {module: [] for module in modules}
    inside: list[nn.Module] = []

    def note(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if inside:
            found[inside[-1]].append((key.shape, value.shape))
        return _ATTENTION(query, key, value, *args, **kwargs)

    hooks = [module.register_forward_pre_hook(lambda module, _: inside.append(module)) for module in found]
    hooks += [module.register_forward_hook(lambda *_: inside.clear()) for module in found]
    try:
        with _Attending(note):
            run_once(encoder)
    finally:
        for hook in hooks:
            hook.remove()
    return found
