"""The parts of a vision-language model, and the whole put together from them again.

`get_encoder` and `get_decoder` of transformers name the image encoder and the language model; what is left is the way
from one to the other. Each part keeps its own modules under their own names, so that the whole's state dict is that of
its parts side by side.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mmft.errors import UserError, first_line
from mmft.models.frozen_layers import computing_dtype
from mmft.models.image_encoder import KEY as IMAGE_KEY
from mmft.models.layers import evaluated
from mmft.models.loading.source import Source
from mmft.models.whole.features import ImageFeatures, bare
from mmft.models.whole.loading import KEY, Frozen, core_of, load_processor, load_whole
from mmft.models.whole.pixels import Pixels
from mmft.models.whole.tiles import KEY as TILES_KEY
from mmft.models.whole.tiles import Tiles
from mmft.models.whole.tokenizer import ImageTokenizer, image_texts

_COUNTS = ("image_seq_len", "image_seq_length")
"""Settings of processors that say how many tokens an image has."""


@dataclass(frozen=True)
class Whole:
    """A vision-language model taken apart, on the CPU, in float32 but for what is kept small.

    Attributes:
        source: where the weights come from.
        processor: the model's own; set to one square image, but for tiles.
        pixels: how images are made.
        image: the image encoder.
        rest: the parameters and modules between image encoder and language model.
        features: how images pass through both.
        text: the model without these, which reads ids and image features; or (BLIP-2) its causal language model.
        tokenizer: the processor's.
        image_token: the id in place of each token of an image.
        of_type_one: which tokens have `token_type_ids` of 1: those of the `image` (Gemma 3), of the `answer`
            (PaliGemma), or None if the model does not read them.
        prefixes: what stands before the names of each part in the whole's state dict.
    """

    source: Source
    processor: Any
    pixels: Pixels | Tiles
    image: Any
    rest: nn.Module
    features: ImageFeatures
    text: Any
    tokenizer: ImageTokenizer
    image_token: int
    of_type_one: Literal["image", "answer"] | None
    prefixes: Mapping[str, str]

    @property
    def tiles(self) -> Tiles | None:
        """How images are cut; None if each is one square."""
        return self.pixels if isinstance(self.pixels, Tiles) else None

    @property
    def reads_ids(self) -> bool:
        """Whether the language model places image features among ids itself; else it reads embeddings."""
        return self.prefixes["text"] == ""


def take_apart(
    source: Source, pretrained: bool, image_size: int | None, frozen: Frozen | None = None, tiles: bool = False
) -> Whole:
    """Loads a vision-language model and takes it apart.

    Args:
        source: its folder; without weights only if not `pretrained`.
        pretrained: False for random weights.
        image_size: side of the square images in pixels, not read for tiles; None for the processor's own.
        frozen: how layers that are never trained are kept, by encoder.
        tiles: whether images are cut as the processor does it.

    Raises:
        UserError: it cannot be loaded or taken apart, or does not take images of this size.
    """
    whole, processor = load_whole(source, pretrained, frozen), load_processor(source)
    core = core_of(whole)
    image, text = _name_of(core, core.get_encoder(modality="image")), _name_of(core, core.get_decoder())
    marked = getattr(whole.config, "image_token_id", None) is not None
    headless = whole.get_output_embeddings() is None
    if image is None or text is None or headless or whole.config.is_encoder_decoder or not marked:
        raise UserError(
            f"{KEY}={source.name}: {type(whole).__name__} is not an image encoder before a causal language model "
            "with a token for images. Choose another model"
        )
    image_token = int(whole.config.image_token_id)
    pixels = _pixels(source, processor, image_token, image_size, tiles)
    if hasattr(core.config, "image_grid_pinpoints") and not tiles:
        core.config.image_grid_pinpoints = [[pixels.side, pixels.side]]
    features = _features(source, core, image, pixels, image_size)
    modules = dict(core.named_children())
    between = {name: module for name, module in modules.items() if name not in (image, text)}
    rest = bare(core, between, core._parameters)
    tokenizer = ImageTokenizer(processor, image_token, pixels.side, pixels if isinstance(pixels, Tiles) else None)
    if isinstance(pixels, Tiles):
        _check_tiles(source, pixels, features, rest)
    else:
        _check_count(source, tokenizer, features.image_tokens, pixels.side)
    core_prefix = "" if core is whole else f"{whole.base_model_prefix}."
    prefixes = {"image": f"{core_prefix}{image}.", "rest": core_prefix, "text": ""}
    if core is whole:
        language_model, prefixes["text"] = modules[text], f"{text}."
    else:
        language_model = whole
        for name in (image, *between):
            del core._modules[name]
        core._parameters = {}
    return Whole(
        source,
        processor,
        pixels,
        modules[image],
        rest,
        features,
        language_model,
        tokenizer,
        image_token,
        tokenizer.of_type_one() if "token_type_ids" in inspect.signature(whole.forward).parameters else None,
        prefixes,
    )


def put_together(parts: Whole, states: Mapping[str, Mapping[str, Tensor]]) -> Any:
    """The whole model of transformers, with the weights of its parts.

    Args:
        parts: of the whole.
        states: the state dicts of `image`, `rest` and `text`.
    """
    whole = load_whole(parts.source, pretrained=False)
    if hasattr(whole.config, "image_grid_pinpoints") and parts.tiles is None:
        whole.config.image_grid_pinpoints = [[parts.pixels.side, parts.pixels.side]]
    found = {parts.prefixes[part] + name: value for part, state in states.items() for name, value in state.items()}
    missing, unexpected = whole.load_state_dict(found, strict=False)
    own = dict(whole.named_parameters(remove_duplicate=False))
    known = {id(own[name]) for name in found if name in own}
    lost = [name for name in missing if name in own and id(own[name]) not in known]  # not tied to one that is there
    assert not lost, lost
    assert not unexpected, unexpected
    return whole


def _pixels(source: Source, processor: Any, image_token: int, image_size: int | None, tiles: bool) -> Pixels | Tiles:
    """How images are made; raises UserError if the processor does not go with it."""
    if tiles:
        return Tiles(processor, *image_texts(processor, image_token), source.name)
    return Pixels(processor.image_processor, image_size, source.name)


def _features(source: Source, core: Any, image: str, pixels: Pixels | Tiles, image_size: int | None) -> ImageFeatures:
    """The way from pixels to image tokens; raises UserError if images of this size do not pass through."""
    try:
        found = ImageFeatures(core, image, pixels, *pixels.trial())
    except Exception as error:
        raise UserError(
            f"{KEY}={source.name}: it does not take images of {pixels.side} x {pixels.side} pixels: {first_line(error)}"
        ) from error
    if isinstance(pixels, Pixels) and image_size is not None:
        _check_border(source, core, found, pixels)
    return found


@torch.no_grad()
def _check_border(source: Source, core: Any, features: ImageFeatures, pixels: Pixels) -> None:
    """Raises UserError if the image encoder leaves out the last row of pixels, and the size is not its own."""
    if pixels.side == getattr(getattr(core.config, "vision_config", None), "image_size", None):
        return
    image_encoder = getattr(core, features.encoder)
    images, about = pixels.trial()
    changed = images.clone()
    changed[..., -1, :] += 1
    with evaluated(image_encoder):
        dtype = computing_dtype(image_encoder)
        first, other = (features.encode(image_encoder, one.to(dtype), about) for one in (images, changed))
    if torch.equal(first, other):
        raise UserError(
            f"{IMAGE_KEY}.image_size={pixels.side}: {source.name} does not read the last rows and columns of such an "
            "image. Type a multiple of the size of its patches"
        )


def _check_count(source: Source, tokenizer: ImageTokenizer, count: int, side: int) -> None:
    """Tells the processor how many tokens an image has, and raises UserError if it writes another number of them."""
    processor = tokenizer.processor
    for holder in (processor, processor.image_processor):
        for name in _COUNTS:
            if hasattr(holder, name):
                setattr(holder, name, count)
    try:
        written = tokenizer.image_tokens()
    except Exception as error:
        raise UserError(f"{KEY}={source.name}: its processor fails: {first_line(error)}. Choose another") from error
    if written != count:
        raise UserError(
            f"{KEY}={source.name}: its processor writes {written} tokens for an image of {side} x {side} pixels, "
            f"but the model reads {count}. Leave {IMAGE_KEY}.image_size out, or choose another model"
        )
    if not tokenizer.writes_one_piece(count):
        raise UserError(
            f"{KEY}={source.name}: its processor writes other tokens between those of an image. Choose another model"
        )


@torch.no_grad()
def _check_tiles(source: Source, tiles: Tiles, features: ImageFeatures, rest: nn.Module) -> None:
    """Raises UserError if the processor writes another number of tokens for images than the model reads."""
    about = torch.cat([tiles.tried.about, tiles.of_square.about])
    tokens = int(features.lengths(about).sum())
    counts = tiles.counts(about)
    try:
        like = next(rest.parameters(), torch.zeros(()))
        read = len(features.project(rest, like.new_zeros(tokens, features.width), about))
    except Exception as error:
        raise UserError(
            f"{TILES_KEY}=true does not go with {KEY}={source.name}: {type(error).__name__}: {first_line(error)}"
        ) from error
    if int(counts[0]) != features.image_tokens or int(counts.sum()) != read:
        raise UserError(
            f"{TILES_KEY}=true does not go with {KEY}={source.name}: its processor writes {int(counts.sum())} tokens "
            f"for two images, but the model reads {read}. Leave it out"
        )


def _name_of(core: Any, part: nn.Module) -> str | None:
    return next((name for name, module in core.named_children() if module is part), None)
