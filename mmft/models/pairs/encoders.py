"""The encoders of a pair, pooled and padded as in its pretraining."""

from __future__ import annotations

import torch
from torch import Tensor

from mmft.batch import Encoded
from mmft.models import image_encoder, text_encoder
from mmft.models.encoder import Encoder
from mmft.models.fusion.base import Reads
from mmft.models.image_encoder import ImageEncoder, TimmImageEncoder, TransformersImageEncoder
from mmft.models.pairs.open_clip_tokenizer import open_clip_tokenizer
from mmft.models.pairs.pair import Pair
from mmft.models.preprocessing import check_patches, patch_size_of
from mmft.models.text_encoder import TextEncoder, embeddings
from mmft.models.tokenizer import load_tokenizer


def image_encoder_of(pair: Pair, image_size: int | None, pool: str, auto_pool: str, reads: Reads) -> ImageEncoder:
    """The pair's image encoder.

    Args:
        pair: the pair.
        image_size: side of the images in pixels, positions are resampled; None for the pair's own.
        pool: as in `model.image_encoder.pool`; `auto` is the pair's own pooling if the fusion reads pooled features.
        auto_pool: meaning of `auto` if it reads tokens.
        reads: what the fusion reads; whatever else the encoder computes is not trained.

    Raises:
        UserError: the image size does not fit.
    """
    key = image_encoder.KEY
    size = image_size or pair.image_size or 224
    if image_size != pair.image_size:
        check_patches(image_size, patch_size_of(pair.image), key)
    pool = "own" if pool == "auto" and reads == "pooled" else pool
    if hasattr(pair.image, "config"):
        made: ImageEncoder = TransformersImageEncoder(pair.image, pair.source, size, pool, auto_pool)
    else:
        if size != pair.image_size and hasattr(pair.image, "set_input_size"):
            pair.image.set_input_size(img_size=(size, size))
        made = TimmImageEncoder(pair.image, pair.source, size, pool, auto_pool)
    side = made.image_size
    _train_what_is_used(made, made(torch.zeros(1, 3, side, side, dtype=torch.uint8)), reads)
    return made


def text_encoder_of(pair: Pair, max_length: int | None, pool: str, reads: Reads) -> TextEncoder:
    """The pair's text encoder with its tokenizer; arguments and errors as for `image_encoder_of`."""
    load = open_clip_tokenizer if pair.source.library == "open_clip" else load_tokenizer
    tokenizer = load(pair.source, embeddings(pair.text), text_encoder.KEY)
    if pool == "own" or (pool == "auto" and reads == "pooled"):
        pool = pair.family.text_pool
    made = TextEncoder(pair.text, pair.source, tokenizer, max_length, pool, pair.family.fixed_length)
    ids = torch.arange(8).unsqueeze(0)  # (1, 8)
    _train_what_is_used(made, made(ids, torch.ones_like(ids, dtype=torch.bool)), reads)
    return made


def _train_what_is_used(encoder: Encoder, encoded: Encoded, reads: Reads) -> None:
    """Excludes parameters without influence on the encoder's output from training: a mask token, another pooler.

    They stay in the model, so that an export has them.
    """
    output: Tensor = encoded.tokens if reads == "tokens" else encoded.pooled
    parameters = list(encoder.parameters())
    gradients = torch.autograd.grad(output.sum(), parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.requires_grad_(gradient is not None)
