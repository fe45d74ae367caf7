"""`model.tiles`: images cut and resized as a model's own processor does it, with as many tokens as each of them needs.

The image processor is called for each image when it is read, without normalising, so that its pixels are bytes. What it
says about an image besides its pixels (rows and columns of tiles, its size, a grid of patches) is kept as numbers, from
which the processor then writes the image's part of a prompt and the model arranges its features: no architecture is
looked up.

Legend: I images, P pieces (tiles or patches), K numbers of an image, H W height and width of an image.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mmft.batch.images import Pieces
from mmft.errors import UserError, first_line
from mmft.models.language.images_in_prompt import placed
from mmft.models.language.prompt_tokenizer import IMAGE_MARK
from mmft.models.whole.loading import KEY as WHOLE_KEY

KEY = "model.tiles"
_SHAPES = ((2, 2), (1, 2), (3, 2), (5, 2), (2, 5))
"""Sides of the images of noise that are tried, in halves of that of a tile or, for patches, of 56 pixels."""
_PATCHED = 56
_TOLERANCE = 1e-5  # of normalised pixels


class _Said(NamedTuple):
    """What the image processor says about an image besides its pixels."""

    name: str
    shape: tuple[int, ...]
    kind: type  # Tensor, ndarray or list

    def of(self, numbers: list[int]) -> Any:
        """The value, of one image, in the processor's own form."""
        array = np.array(numbers, dtype=np.int64).reshape(self.shape)
        return torch.from_numpy(array) if self.kind is Tensor else array if self.kind is np.ndarray else array.tolist()


class _Known:
    """In the place of an image processor: notes how it is called, and returns what is known already."""

    def __init__(self, own: Any) -> None:
        self._own, self.options = own, dict[str, Any]()
        self.found: Any = None

    def __getattr__(self, name: str) -> Any:
        if name == "_own":  # while it is being copied
            raise AttributeError(name)
        return getattr(self._own, name)

    def __call__(self, *given: Any, **options: Any) -> Any:
        self.options = options
        if self.found is None:
            self.found = self._own(*given, **options)
        return type(self.found)({**self.found})  # some processors take entries out


class Heard:
    """A tokenizer that notes the texts that it is given."""

    def __init__(self, tokenizer: Any) -> None:
        self.own = tokenizer
        self.texts: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name == "own":  # while it is being copied
            raise AttributeError(name)
        return getattr(self.own, name)

    def __call__(self, text: Any, *given: Any, **options: Any) -> Any:
        """As the tokenizer."""
        self.texts += [text] if isinstance(text, str) else list(text)
        return self.own(text, *given, **options)


class Tiles:
    """How a model's own processor cuts images into pieces, and what it writes for them.

    Args:
        processor: of the model.
        image_token: the text in place of each token of an image.
        placeholder: the text of an image in a prompt that the processor is given.
        name: of the model, for messages.

    Raises:
        UserError: it does not cut images, or in a way that cannot be followed.

    Attributes:
        side: of a tile in pixels; or of a small image, if pieces are patches.
        of_square: the pieces of a square.
        tried: those of an image that has few tokens.
        missing: what stands for the image of a row without one: an image that has few tokens.
        room: tokens that a prompt with its images may have; None for any number.
    """

    cuts = True

    def __init__(self, processor: Any, image_token: str, placeholder: str, name: str) -> None:
        self.room: int | None = None
        self._name, self._images = name, processor.image_processor
        self._image_token, self._placeholder = image_token, placeholder
        self._known, self._heard = _Known(self._images), Heard(processor.tokenizer)
        self._writer = copy.copy(processor)
        self._writer.image_processor, self._writer.tokenizer = self._known, self._heard
        self._tokens: dict[tuple[int, ...], list[int]] = {}
        try:
            self._learn()
            tried = [self.cut(noise) for noise in self._noise()]
            counts = [len(self.tokens(one.about[0])) for one in tried]
        except UserError:
            raise
        except Exception as error:
            raise self._refused(f"its processor fails: {first_line(error)}") from error
        if len({(one.values.shape, *one.about[0].tolist()) for one in tried}) == 1:
            raise UserError(
                f"{KEY}=true changes nothing with {WHOLE_KEY}={name}: its processor makes one square of any image. "
                "Leave it out"
            )
        self.of_square, self.tried = tried[0], tried[counts.index(min(counts))]
        self.missing = self.tried.without_values()
        self._check()

    @property
    def settings(self) -> dict[str, Any]:
        """Of the processor, for JSON."""
        found: dict[str, Any] = self._images.to_dict()
        return found

    def trial(self) -> tuple[Tensor, Tensor]:
        """Normalised pieces of an image of noise, and what is said about it (1, K)."""
        generator = torch.Generator().manual_seed(0)
        return torch.randn(self.tried.values.shape, generator=generator), self.tried.about

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._images.to_json_string()}, {self._options})"

    def cut(self, pixels: npt.NDArray[np.uint8]) -> Pieces:
        """(H, W, 3) RGB -> the image's pieces: (P, 3, S, S) tiles, or (P, ...) patches."""
        found = self._images([pixels], **self._options, do_rescale=False, do_normalize=False)
        values = torch.as_tensor(found["pixel_values"])
        values = (values[0] if self._batched else values).round().to(torch.uint8)
        said = [np.asarray(found[one.name], dtype=np.int64).reshape(-1).tolist() for one in self._said]
        about = torch.tensor([[len(values), *(number for numbers in said for number in numbers)]])
        return Pieces(about, values, torch.ones(1, dtype=torch.bool))

    def tokens(self, about: Tensor) -> list[int]:
        """What stands for an image (K,) in a prompt: token ids, with an `IMAGE_MARK` for each of the image's own."""
        key = tuple(about.tolist())
        if key not in self._tokens:
            ids = self._heard.own(self.text(about), add_special_tokens=False)["input_ids"]
            image = self._heard.own.convert_tokens_to_ids(self._image_token)
            self._tokens[key] = [IMAGE_MARK if token == image else token for token in ids]
        return self._tokens[key]

    def text(self, about: Tensor) -> str:
        """What the processor writes in the place of an image (K,)."""
        found, at, numbers = {}, 1, about.tolist()
        for one in self._said:
            size = int(np.prod(one.shape))
            found[one.name] = one.of(numbers[at : at + size])
            at += size
        shape = (numbers[0], *self._piece)
        pixels = torch.zeros(()).expand((1, *shape) if self._batched else shape)
        self._known.found = type(self._first)({**found, "pixel_values": pixels, **self._masks(numbers[0])})
        return self._written()

    def counts(self, about: Tensor) -> Tensor:
        """(I, K) -> (I,) int64 tokens of each image."""
        found = [self.tokens(one).count(IMAGE_MARK) for one in about.cpu()]
        return torch.tensor(found, dtype=torch.int64, device=about.device)

    def expanded(self, ids: list[int], about: Tensor) -> list[int]:
        """A prompt's tokens with what stands for each of its images (I, K) in the place of their marks."""
        return placed(ids, [self.tokens(one) for one in about])

    def normalised(self, values: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        """(P, ...) uint8 pieces -> the same normalised, with mean and std (1, 3, 1, 1) of uint8 values."""
        pixels = values.to(mean.dtype)
        if pixels.ndim == 4:
            return (pixels - mean) / std
        return ((pixels.view(len(pixels), 3, -1, 1) - mean) / std).view(len(pixels), -1)  # patches: channels first

    def known(self, about: Tensor) -> Pieces:
        """An image (K,) whose pieces are not needed."""
        return replace(self.missing, about=about[None])

    def zeros(self, about: Tensor) -> Pieces:
        """Images (I, K) whose pixels are zeros."""
        values = torch.zeros((), dtype=torch.uint8, device=about.device).expand(int(about[:, 0].sum()), *self._piece)
        return Pieces(about, values, torch.ones_like(about[:, 0], dtype=torch.bool))

    def arguments(self, normalised: Tensor, about: Tensor) -> dict[str, Tensor]:
        """What `get_image_features` takes: normalised pieces (P, ...) and what is said about the images (I, K)."""
        return self._arguments(self._apart(normalised, about), about)

    def unread(self, like: Tensor, about: Tensor) -> dict[str, Tensor]:
        """The same for images (I, K) whose pixels are not read; `like` () has their dtype and device."""
        numbers = self._apart(like.new_ones(int(about[:, 0].sum())), about)  # (P,) or, padded with zeros, (I, P)
        shape = numbers.shape
        return self._arguments(numbers.view(*shape, *[1] * len(self._piece)).expand(*shape, *self._piece), about)

    def _apart(self, pieces: Tensor, about: Tensor) -> Tensor:
        """(P, ...) -> the same, or padded with zeros if each image has a place of its own in the batch."""
        return pad_sequence(list(pieces.split(about[:, 0].tolist())), True) if self._batched else pieces

    def _arguments(self, pixels: Tensor, about: Tensor) -> dict[str, Tensor]:
        ones = {name: pixels.new_ones(pixels.shape[:2] + pixels.shape[3:], dtype=torch.bool) for name in self._uniform}
        return {"pixel_values": pixels, **ones, **self.said(about)}

    def said(self, about: Tensor) -> dict[str, Tensor]:
        """What the processor says about images (I, K), by name."""
        sizes = [int(np.prod(one.shape)) for one in self._said]
        parts = about[:, 1:].split(sizes, dim=1)
        return {one.name: part.reshape(-1, *one.shape[1:]) for one, part in zip(self._said, parts, strict=True)}

    def _learn(self) -> None:
        """How the processor calls its image processor, and what that returns."""
        side = self._images_side()
        self._known.found, self._options = None, {}
        self._written(np.full((side, side, 3), 128, dtype=np.uint8))
        self._first, self._options = self._known.found, {**self._known.options, "return_tensors": "pt"}
        self._options["input_data_format"] = "channels_last"
        shape = tuple(np.shape(self._first["pixel_values"]))
        self._batched = len(shape) == 5
        self._piece = shape[2:] if self._batched else shape[1:]
        self.side = shape[-1] if len(shape) > 2 else side
        self._said, self._uniform = [], []
        for name, value in sorted(self._first.items()):
            if name == "pixel_values":
                continue
            if np.ndim(value) > 2:
                self._uniform.append(name)
            else:
                kind = Tensor if isinstance(value, Tensor) else np.ndarray if isinstance(value, np.ndarray) else list
                self._said.append(_Said(name, np.shape(value), kind))

    def _images_side(self) -> int:
        own = self._images
        size = dict(getattr(own, "max_image_size", None) or own.size)
        found = next((size[key] for key in ("height", "shortest_edge", "longest_edge") if size.get(key)), _PATCHED)
        return _PATCHED if hasattr(own, "merge_size") else int(found)

    def _masks(self, pieces: int) -> dict[str, Tensor]:
        return {name: torch.ones(1, pieces, *self._piece[1:], dtype=torch.bool) for name in self._uniform}

    def _written(self, image: npt.NDArray[np.uint8] | None = None) -> str:
        """What the processor gives its tokenizer for an image alone."""
        self._heard.texts.clear()
        blank = np.zeros((1, 1, 3), dtype=np.uint8) if image is None else image
        self._writer(text=[self._placeholder], images=[blank])
        return self._heard.texts[0]

    def _noise(self) -> list[npt.NDArray[np.uint8]]:
        generator, half = np.random.default_rng(0), self.side // 2
        shapes = [(half * high, half * wide, 3) for high, wide in _SHAPES]
        return [generator.integers(0, 256, shape, dtype=np.uint8) for shape in shapes]

    def _check(self) -> None:
        """Raises UserError if pixels or tokens are not the processor's."""
        mean, std = (
            255 * torch.tensor(getattr(self._images, name), dtype=torch.float32).view(1, 3, 1, 1)
            for name in ("image_mean", "image_std")
        )
        for noise in self._noise():
            own, found = self._images([noise], **self._options), self.cut(noise)
            pixels = self.arguments(self.normalised(found.values, mean, std), found.about)
            for name, value in pixels.items():
                wanted = torch.as_tensor(own[name])
                fits = wanted.numel() == value.numel()
                if not fits or float((wanted.view(value.shape).float() - value.float()).abs().max()) > _TOLERANCE:
                    raise self._refused(f"its {name} for an image of {noise.shape[1]} x {noise.shape[0]} pixels differ")
            self._known.found = None
            if self._written(noise) != self.text(found.about[0]):
                raise self._refused("what it writes depends on more than an image's tiles")

    def _refused(self, why: str) -> UserError:
        return UserError(f"{KEY}=true does not go with {WHOLE_KEY}={self._name}: {why}. Leave it out")
