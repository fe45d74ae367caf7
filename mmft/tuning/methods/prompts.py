"""Prompt tuning: learned tokens in front of the sequence, removed after the last block.

They are inserted after the embeddings, so that they use up no positions and the other tokens keep theirs; pooling and
fusion never see them. Texts use this implementation, too: peft's prompts go through the embeddings, take positions from
the text, do not support deep prompts, and do not work with encoders that only accept ids (CLIP).

While a language model generates with a cache of keys and values, the prompts go in front of every new token again, and
the cache never holds them, so that its length and the masks made from it are those of the text.

Legend: B batch, N tokens, P prompts, D width.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmft.models.encoder import Encoder
from mmft.models.layers import block_modules, blocks
from mmft.models.text_encoder import TextEncoder, try_text
from mmft.tuning.masks import with_tokens
from mmft.tuning.methods.inserted import Inserted, check_cache
from mmft.tuning.probe import first_of, replaced, run_once, shapes

_MASKS = ("attention_mask", "attn_mask")
_CACHES = ("cache", "layer_past")


class CacheWithoutPrompts:
    """The cache of a language model's keys and values as its attention sees it: with the prompts in front.

    Args:
        cache: transformers' own, which gets the keys and values of the other tokens alone.
        length: P.
    """

    def __init__(self, cache: Any, length: int) -> None:
        self._cache, self._length = cache, length

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)

    def update(self, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """New keys and values (B, A, P + N, E) -> those of prompts, earlier tokens and new ones."""
        own = [part[..., : self._length, :] for part in (keys, values)]
        new = (part[..., self._length :, :] for part in (keys, values))
        every = self._cache.update(*new, *args, **kwargs)
        keys, values = (torch.cat(pair, dim=-2) for pair in zip(own, every, strict=True))
        return keys, values


class Prompts(nn.Module):
    """Learned tokens, initialised with small random numbers. The public methods are hooks for blocks.

    Args:
        length: P.
        width: D.
        arguments: parameter names of a block's `forward`, the tokens first.
        causal: whether a token attends only to earlier ones.
    """

    def __init__(self, length: int, width: int, arguments: list[str], causal: bool) -> None:
        super().__init__()
        self.tokens = nn.Parameter(0.02 * torch.randn(length, width))
        self.length = length  # not from `tokens`, which may be sharded
        self.arguments = arguments
        self.causal = causal

    def put_in(self, block: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Pre-hook that inserts the prompts: (B, N, D) -> (B, P + N, D), and extends masks and positions."""
        tokens = given[0]
        prompts = self.tokens.to(tokens.dtype).expand(len(tokens), -1, -1)  # (B, P, D)
        return self._call(block, torch.cat([prompts, tokens], dim=1), given, named)

    def keep(self, block: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Pre-hook of a block whose input already has the prompts: only extends masks and positions."""
        return self._call(block, given[0], given, named)

    def take_out(self, block: nn.Module, given: tuple[Any, ...], output: Any) -> Any:
        """Hook that removes the prompts from a block's output: (B, P + N, D) -> (B, N, D)."""
        return replaced(output, first_of(output)[:, self.length :])

    def _call(self, block: nn.Module, tokens: Tensor, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """A block's arguments, all but the first by name, extended from N tokens to P + N, which `tokens` has."""
        count = tokens.shape[1] - self.length  # N
        named = dict(zip(self.arguments[1:], given[1:], strict=False)) | named
        for name in _CACHES:
            if (cache := named.get(name)) is not None:
                keys, _ = cache.get_mask_sizes(count, _number_of(block))
                if keys > count and named.get("attention_mask") is None:  # a new token sees all earlier ones
                    named["attention_mask"] = tokens.new_ones(1, 1, count, keys, dtype=torch.bool)
                named[name] = CacheWithoutPrompts(cache, self.length)
        for name in _MASKS:
            if isinstance(named.get(name), Tensor):
                named[name] = with_tokens(named[name], self.length, self.causal)
        if isinstance(named.get("position_embeddings"), tuple):
            named["position_embeddings"] = self._unrotated(named["position_embeddings"], count)
        if named.get("relative_pos") is not None:
            named["relative_pos"] = None  # DeBERTa's attention then computes it for the new length
        return (tokens,), named  # (B, P + N, D)

    def _unrotated(self, rotations: tuple[Tensor, ...], count: int) -> tuple[Tensor, ...]:
        """Rotary cosines and sines (..., N, D) -> (..., P + N, D), with all prompts at position 0.

        Rotations that cover only patches are unchanged: the code that applies them skips prefix tokens.
        """
        if any(part.shape[-2] != count for part in rotations) or len(rotations) != 2:
            return rotations
        pad = (0, 0, self.length, 0)
        return functional.pad(rotations[0], pad, value=1.0), functional.pad(rotations[1], pad, value=0.0)


def _number_of(block: nn.Module) -> int:
    """The number by which a block of transformers finds its part of the cache."""
    numbers = (getattr(module, "layer_idx", None) for module in block.modules())
    return next(number for number in numbers if isinstance(number, int))


class PromptTuning(Inserted):
    """Learned tokens (Lester et al. 2021, arXiv 2104.08691; for images Jia et al. 2022, arXiv 2203.12119).

    Args:
        key: as in `TuningMethod`.
        length: number of prompts; None for 10.
        deep: whether every block gets its own prompts (also Liu et al. 2022, arXiv 2110.07602), which replace those of
            the previous block; otherwise prompts are inserted before the first block and kept until the last.
        lr: as in `TuningMethod`.
    """

    name = "prompt"
    default_lr = 5e-3

    def __init__(self, key: str, length: int | None = None, deep: bool = True, lr: float | None = None) -> None:
        super().__init__(key, lr)
        self.length = 10 if length is None else length
        self.deep = deep

    def insert(self, encoder: Encoder) -> list[nn.Module]:
        """Adds prompts as children of their block, so that they get its layer number."""
        found = self._blocks(encoder)
        before = run_once(encoder).tokens.shape
        causal = (
            isinstance(encoder, TextEncoder) and try_text(encoder.reader(encoder.backbone), encoder.source.name).causal
        )
        added = [self._prompts(block, encoder.width, causal) for block in (found if self.deep else found[:1])]
        for number, block in enumerate(found):
            own = added[number if self.deep else 0]
            is_first, is_last = number == 0, number == len(found) - 1
            block.register_forward_pre_hook(own.put_in if self.deep or is_first else own.keep, with_kwargs=True)
            if self.deep or is_last:
                block.register_forward_hook(own.take_out)
            for module in block.modules():
                attention: Any = module
                if isinstance(getattr(attention, "num_prefix_tokens", None), int):
                    attention.num_prefix_tokens += self.length  # timm's rotary attention does not rotate these
        try:
            after = run_once(encoder).tokens.shape
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
            raise self.refusal(encoder, f"its blocks accept no additional tokens: {error}", "lora") from None
        if before != after:
            raise self.refusal(encoder, "prompts in its blocks change the shape of its output", "lora")
        check_cache(self, encoder)
        return list(added)

    def _blocks(self, part: Encoder) -> list[nn.Module]:
        found = block_modules(part.backbone)
        seen = shapes(part, found)
        calls = {shape for block in found for call in seen[block] for shape in call}
        once = all(len(seen[block]) == 1 for block in found)
        is_sequence = len(calls) == 1 and all(shape is not None and len(shape) == 3 for shape in calls)
        if not found or len(found) < len(blocks(part.backbone)) or not once or not is_sequence:
            raise self.refusal(part, "its blocks do not all pass on one sequence of tokens", "adapters", "lora")
        encoder: Any = getattr(part.backbone, "encoder", None)
        if not self.deep and getattr(encoder, "conv", None) is not None:  # only the largest DeBERTa-v2
            raise self.error("deep", f"{part.source.name} has a convolution between its blocks. Type deep=true")
        return found

    def _prompts(self, block: nn.Module, width: int, causal: bool) -> Prompts:
        prompts = Prompts(self.length, width, list(inspect.signature(block.forward).parameters), causal)
        block.add_module("prompts", prompts)
        return prompts
