"""`model.pair`: what it decides before anything is built, and the parts that it provides."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from mmft.config.schema.model import ENCODERS, ModelConfig
from mmft.config.schema.root import TrainConfig
from mmft.files import located
from mmft.models.image_encoder import ImageEncoder
from mmft.models.loading.source import Source, resolve
from mmft.models.pairs.encoders import image_encoder_of, text_encoder_of
from mmft.models.pairs.facts import crop_pct_of, is_pair, resample_of, resize_of
from mmft.models.pairs.open_clip_config import preprocessing
from mmft.models.pairs.pair import KEY, Pair, checked_family, load_pair
from mmft.models.preprocessing import check_processor
from mmft.models.text_encoder import TextEncoder

log = logging.getLogger(__name__)


def choose_for_pair(config: TrainConfig, base: Path) -> None:
    """Replaces what is left to the pair by what it wants: how images are read, and the loss of `task=contrastive`.

    Where its images are padded, so is `data.background`, the colour of the bars, unless it is typed.

    Args:
        config: the config of a run; changed in place.
        base: of its relative paths.

    Raises:
        UserError: there is no such pair.
    """
    if config.model.pair is None:
        return
    folder = located(config.model.pair, base)
    source = resolve(str(folder) if folder.is_dir() else config.model.pair, KEY)
    family = checked_family(source)
    check_processor(source)
    if config.data.resize is None and config.data.background is None and resize_of(source) == "pad":
        config.data.background = "#" + 3 * f"{preprocessing(source).get('fill_color', 0):02x}"
        log.info("data.background=%s, as in the preprocessing of %s", config.data.background, source.name)
    config.data.resize = config.data.resize or resize_of(source)
    config.data.resample = config.data.resample or resample_of(source)
    if config.data.crop_pct is None and config.data.resize == resize_of(source):
        config.data.crop_pct = crop_pct_of(source)
    config.data.jpeg_draft = bool(config.data.jpeg_draft)
    config.task.start_from_pair(sigmoid=family.sigmoid)
    if not config.model.fusion.of_pair:
        fusion = config.model.fusion.type
        log.info("%s: its projections and temperature are left out, with model/fusion=%s", source.name, fusion)


def load_pairs(config: ModelConfig, known: Mapping[str, Source]) -> tuple[Pair, Pair]:
    """The pair that the image encoder comes from, and the one of the text encoder: the same, unless one is random.

    Args:
        config: `model`.
        known: where both encoders are, if already known: a run has the weights of what it trained, and names the pair
            for a frozen encoder.
    """
    assert config.pair is not None
    pretrained = {encoder: getattr(config, encoder).pretrained for encoder in ENCODERS}
    if known:  # the pair of a frozen encoder has all parts, whose weights a run then replaces
        encoder = next((encoder for encoder in ENCODERS if pretrained[encoder]), ENCODERS[0])
        pair = load_pair(known[encoder], pretrained[encoder])
        return pair, pair
    source = resolve(config.pair, KEY)
    pairs = {wanted: load_pair(source, wanted) for wanted in set(pretrained.values())}
    return pairs[pretrained["image_encoder"]], pairs[pretrained["text_encoder"]]


def encoders_of(config: ModelConfig, pairs: tuple[Pair, Pair]) -> tuple[ImageEncoder, TextEncoder]:
    """Both encoders, pooled as `model` says."""
    image, text, fusion = config.image_encoder, config.text_encoder, config.fusion
    return (
        image_encoder_of(pairs[0], image.image_size, image.pool, fusion.image_pool, fusion.reads),
        text_encoder_of(pairs[1], text.max_length, text.pool, fusion.reads),
    )


def warn_of_pair(image: Source, text: Source) -> None:
    """Warns about two encoders from one pretrained pair, of which everything else is left out."""
    if image.folder == text.folder and image.library != "own" and is_pair(image):
        log.warning(
            "%s is a pretrained pair, but only its encoders are used: its projections, temperature, pooling and "
            "preprocessing are left out. Type model.pair=%s instead of both names to use all of it",
            image.name,
            image.name,
        )
