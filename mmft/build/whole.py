"""`model.whole`: what it decides before anything is built, and the parts that it provides."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from mmft.config.schema.model import ENCODERS, ModelConfig
from mmft.config.schema.root import TrainConfig
from mmft.errors import UserError
from mmft.files import located
from mmft.models.image_encoder import ImageEncoder
from mmft.models.language.language_model import LanguageModel
from mmft.models.loading.source import Source, resolve
from mmft.models.preprocessing import resample_of_processor, resize_of_processor
from mmft.models.whole.encoders import WholeImageEncoder, language_model_of
from mmft.models.whole.loading import KEY, Frozen
from mmft.models.whole.parts import Whole, take_apart

log = logging.getLogger(__name__)


def choose_for_whole(config: TrainConfig, base: Path) -> None:
    """Replaces what is left to the model, how images are read, by what its image processor does.

    Args:
        config: the config of a run; changed in place.
        base: of its relative paths.

    Raises:
        UserError: there is no such model.
    """
    if config.model.tiles or config.model.whole is None:
        return
    config.data.jpeg_draft = bool(config.data.jpeg_draft)
    folder = located(config.model.whole, base)
    source = resolve(str(folder) if folder.is_dir() else config.model.whole, KEY)
    config.data.resize = config.data.resize or resize_of_processor(source)
    config.data.resample = config.data.resample or resample_of_processor(source)


def encoders_of(
    config: ModelConfig, known: Mapping[str, Source], frozen: Frozen
) -> tuple[ImageEncoder, LanguageModel, Whole]:
    """Both encoders, and the model whose image encoder and projector are used: one, unless one encoder is random.

    Args:
        config: `model`.
        known: where both encoders are, if already known: a run has the weights of what it trained, and names the model
            for a frozen encoder.
        frozen: how layers that are never trained are kept, by encoder.

    Raises:
        UserError: the model cannot be loaded or taken apart, or a key does not go with it.
    """
    assert config.whole is not None
    pretrained = {encoder: getattr(config, encoder).pretrained for encoder in ENCODERS}
    for encoder in ENCODERS:
        if (pool := getattr(config, encoder).pool) not in ("auto", "last"):
            raise UserError(f"model.{encoder}.pool={pool} changes nothing with {KEY}, which reads tokens. Leave it out")
    size = config.image_encoder.image_size
    own = {encoder: form for encoder, form in frozen.items() if pretrained[encoder]}
    if known:  # the model of a frozen encoder has all parts, whose weights a run then replaces
        encoder = next((encoder for encoder in ENCODERS if pretrained[encoder]), ENCODERS[0])
        both = [take_apart(known[encoder], pretrained[encoder], size, own, config.tiles)] * 2
    else:
        source = resolve(config.whole, KEY)
        found = {wanted: take_apart(source, wanted, size, own, config.tiles) for wanted in set(pretrained.values())}
        both = [found[pretrained[encoder]] for encoder in ENCODERS]
    image, text = WholeImageEncoder(both[0]), language_model_of(both[1], config.text_encoder.max_length)
    if not known:
        _say_images(both[0], image.image_size)
    return image, text, both[0]


def _say_images(whole: Whole, side: int) -> None:
    if (tiles := whole.tiles) is not None:
        few, square = (int(tiles.counts(one.about)[0]) for one in (tiles.tried, tiles.of_square))
        log.info(
            "%s: images are cut as its own processor does it; a square of %d x %d pixels has %d tokens, and a row "
            "without an image %d",
            *(whole.source.name, tiles.side, tiles.side, square, few),
        )
        return
    log.info(
        "%s: each image is one square of %d x %d pixels, which the language model reads as %d tokens",
        whole.source.name,
        side,
        side,
        whole.features.image_tokens,
    )
