"""A model's own way from pixels to image tokens, `get_image_features`, cut at the output of its image encoder.

What the rest reads of that output is not looked up by architecture but found out by one backward pass: the last layer,
another one (LLaVA), several (Qwen3-VL), or what the encoder pools (Qwen2-VL).

Legend: R images, T tokens of the image encoder of all of them, D their width, U tokens of all of them that the language
model reads, W their width, K numbers that are known of an image.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmft.models.frozen_layers import computing_dtype
from mmft.models.layers import evaluated
from mmft.models.whole.pixels import Pixels
from mmft.models.whole.tiles import Tiles

_Path = tuple[str, int | None]  # of a tensor in an output: a field, and a number if it is a list


class ImageFeatures:
    """Both halves of `get_image_features`.

    Args:
        core: the module that has it, with all of its parts.
        encoder: the name of its image encoder.
        pixels: how its images are made.
        images: some of them, normalised: (R, 3, S, S) squares, or pieces.
        about: (R, K) int64 of them.

    Attributes:
        encoder: the same name.
        width: D; several tensors are side by side.
        image_tokens: U of these images.
        encoder_tokens: T of these images.
        depth: numbers of tensors of width W that the language model reads, side by side.
        paths: of the tensors of the encoder's output that are read.
    """

    def __init__(self, core: Any, encoder: str, pixels: Pixels | Tiles, images: Tensor, about: Tensor) -> None:
        self.encoder, self.pixels, self._tried = encoder, pixels, len(images)
        self._shell = bare(core)
        image_encoder = getattr(core, encoder)
        simple = (int, float, str)
        self._plain = {name: value for name, value in vars(image_encoder).items() if type(value) in simple}
        self._accepts = inspect.signature(core.get_image_features).parameters.keys()
        rest = bare(core, {name: module for name, module in core.named_children() if name != encoder}, core._parameters)
        with evaluated(core):
            self._trace(image_encoder, rest, images.to(computing_dtype(image_encoder)), about)

    def encode(self, image_encoder: Any, normalised: Tensor, about: Tensor) -> Tensor:
        """Normalised images and what is known of them (R, K) -> what the rest reads of the encoder's output, (T, D)."""
        return self._read(self._output(image_encoder, normalised, about))

    def lengths(self, about: Tensor) -> Tensor:
        """(R, K) of images in pieces -> (R,) int64 tokens of the image encoder."""
        return about[:, 0] * self.encoder_tokens // self._tried

    def project(self, rest: nn.Module, tokens: Tensor, about: Tensor) -> Tensor:
        """The same (T, D) of images (R, K) -> what the language model reads, (U, depth W)."""
        parts = tokens.split(self._widths, dim=-1)
        given = {
            path: part.reshape(-1, *shape) for path, part, shape in zip(self.paths, parts, self._shapes, strict=True)
        }
        found = self._run(rest, lambda *_, **__: self._rebuilt(given), tokens.new_ones(()), about)
        every = [found.pooler_output, *(getattr(found, "deepstack_features", None) or ())]
        return torch.cat([_stacked(one).flatten(0, -2) for one in every], dim=-1)

    def outputs(self, rows: Sequence[Tensor]) -> Any:
        """Features of each row, (U, depth W) -> as the output of `get_image_features`, which `forward` takes."""
        firsts, *others = zip(*(row.chunk(self.depth, dim=-1) for row in rows), strict=True)
        deep = {"deepstack_features": [list(one) for one in others]} if others else {}
        # (U, 1, W): transformers' beam search repeats what is of a row by counting the tokens of each entry
        return self._kind(pooler_output=list(firsts) if self._listed else torch.cat(firsts)[:, None], **deep)

    def _trace(self, image_encoder: Any, rest: nn.Module, images: Tensor, about: Tensor) -> None:
        """Finds out what the rest reads."""
        with torch.no_grad():
            output = self._output(image_encoder, images, about)
        self._output_kind = type(output)
        self._lengths = {name: len(value) for name, value in output.items() if isinstance(value, (tuple, list))}
        leaves = {path: value.detach().requires_grad_() for path, value in _tensors(output)}
        with torch.enable_grad():
            found = self._run(rest, lambda *_, **__: self._rebuilt(leaves), torch.ones(()), about)
            self._kind, self._listed = type(found), isinstance(found.pooler_output, (tuple, list))
            deep = getattr(found, "deepstack_features", None) or ()
            self.depth = 1 + len(deep)
            total = torch.stack([_stacked(one).sum() for one in (found.pooler_output, *deep)]).sum()
        gradients = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
        read = [path for path, gradient in zip(leaves, gradients, strict=True) if gradient is not None]
        self.paths = read
        self._shapes = [leaves[path].shape[1:] for path in read]
        self._widths = [shape[-1] for shape in self._shapes]
        self.width = sum(self._widths)
        self.image_tokens = len(_stacked(found.pooler_output).flatten(0, -2))
        self.encoder_tokens = len(self._read(output))

    def _read(self, output: Any) -> Tensor:
        found = []
        for name, number in self.paths:
            value = getattr(output, name)
            found.append((value if number is None else value[number]).flatten(0, -2))
        return torch.cat(found, dim=-1)

    def _rebuilt(self, tensors: dict[_Path, Tensor]) -> Any:
        """The image encoder's output with these tensors alone."""
        fields: dict[str, Any] = {name: [None] * length for name, length in self._lengths.items()}
        for (name, number), value in tensors.items():
            if number is None:
                fields[name] = value
            else:
                fields[name][number] = value
        return self._output_kind(**fields)

    def _output(self, image_encoder: Any, normalised: Tensor, about: Tensor) -> Any:
        """The image encoder's output, as `get_image_features` calls it."""

        def reached(*given: Any, **options: Any) -> None:
            raise ReachedError(image_encoder(*given, **options))

        try:
            self._run(None, reached, normalised, about, image_encoder)
        except ReachedError as found:
            return found.output
        raise AssertionError(f"get_image_features of {type(self._shell).__name__} does not call {self.encoder}")

    def _run(
        self,
        rest: nn.Module | None,
        encode: Callable[..., Any],
        images: Tensor,
        about: Tensor,
        image_encoder: Any = None,
    ) -> Any:
        """`get_image_features` with a function in the image encoder's place.

        Args:
            rest: the other parts; None if they are not reached.
            encode: the function.
            images: normalised; or () of what is not read.
            about: (R, K) what is known of them.
            image_encoder: the image encoder, if there are no other parts whose dtype is the model's.
        """
        there = dict(rest._modules if rest is not None else {})
        parameters = dict(rest._parameters if rest is not None else {})
        place = _Place(encode, self._plain, images.dtype)
        place.encoder = image_encoder
        core: Any = bare(self._shell, {**there, self.encoder: place}, parameters)
        given = self.pixels.arguments(images, about) if images.ndim else self.pixels.unread(images, about)
        taken = {name: value for name, value in given.items() if name in self._accepts}
        return core.get_image_features(return_dict=True, **taken)


class _Place(nn.Module):
    """In the place of an image encoder: calls a function."""

    def __init__(self, function: Callable[..., Any], plain: dict[str, Any], dtype: torch.dtype) -> None:
        super().__init__()
        self._function, self.dtype = function, dtype
        vars(self).update({name: value for name, value in plain.items() if name not in vars(self)})

    def forward(self, *given: Any, **options: Any) -> Any:
        """What the function returns."""
        return self._function(*given, **options)


class ReachedError(Exception):
    """A part of a model has been reached, with what was to be known of it."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output


def bare(module: nn.Module, modules: dict[str, Any] | None = None, parameters: dict[str, Any] | None = None) -> Any:
    """A copy of a module, alone or with these submodules and parameters, which are shared with others."""
    found = copy.copy(module)
    found._modules, found._parameters = dict(modules or {}), dict(parameters or {})
    return found


class EncodedImages(dict[str, Any]):
    """The `mm_encoder_outputs` of a model: its images, already encoded.

    Args:
        features: of the model.
        rows: features of each row's images, (U, depth W).
        count: (B,) images of each row.
    """

    def __init__(self, features: ImageFeatures, rows: Sequence[Tensor], count: Tensor) -> None:
        super().__init__(image=features.outputs(rows))
        self._features, self._rows, self.count = features, rows, count

    def take(self, rows: Tensor) -> EncodedImages:
        """Of these rows (R,)."""
        return EncodedImages(self._features, [self._rows[row] for row in rows.tolist()], self.count[rows])


def _tensors(output: Any) -> list[tuple[_Path, Tensor]]:
    """The floating-point tensors of an output, and of the lists in it."""
    found: list[tuple[_Path, Tensor]] = []
    for name, value in output.items():
        if isinstance(value, Tensor):
            found.append(((name, None), value))
        elif isinstance(value, (tuple, list)):
            found += [((name, at), one) for at, one in enumerate(value) if isinstance(one, Tensor)]
    return [(path, value) for path, value in found if value.is_floating_point()]


def _stacked(features: Any) -> Tensor:
    """(R, M, W), (R M, W) or R times (M, W) -> one tensor of width W."""
    return features if isinstance(features, Tensor) else torch.cat(list(features))
