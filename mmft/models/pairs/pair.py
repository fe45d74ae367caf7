"""What a pretrained pair consists of, and loading one.

Legend: P width of the shared space.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn

from mmft.errors import UserError
from mmft.models.loading.source import Source
from mmft.models.pairs import open_clip_pair, transformers_pair
from mmft.models.pairs.facts import FAMILIES, Family, family_of
from mmft.models.pairs.open_clip_config import model_config
from mmft.models.preprocessing import processed_size, side_of

KEY = "model.pair"


@dataclass(frozen=True)
class Pair:
    """The parts of a pretrained pair, in float32 on the CPU.

    Attributes:
        source: where the weights come from.
        family: how its encoders are used.
        whole: the library's own model, which the parts belong to; of open_clip's, an `OpenClipPair`.
        image: the model of transformers or timm that reads images.
        image_size: side in pixels of the images that its preprocessing makes; None if it declares none.
        text: the text transformer.
        image_projection: the image's pooled features -> (P); an identity if the encoder's own pooling ends in one.
        text_projection: the same for texts.
        log_scale: () logarithm of the factor of similarities, 1 / temperature.
        bias: () added to similarities; None without one.
    """

    source: Source
    family: Family
    whole: Any
    image: Any
    image_size: int | None
    text: Any
    image_projection: nn.Module
    text_projection: nn.Module
    log_scale: Tensor
    bias: Tensor | None


def load_pair(source: Source, pretrained: bool) -> Pair:
    """Loads a pair.

    Args:
        source: its folder; without weights only if not `pretrained`.
        pretrained: False for random weights.

    Raises:
        UserError: it is not a pair that mmft knows, or it cannot be loaded.
    """
    family = checked_family(source)
    if source.library == "open_clip":
        return _of_open_clip(source, family, open_clip_pair.load_whole(source, pretrained, KEY))
    return pair_of(source, family, transformers_pair.load_whole(source, pretrained, KEY))


def pair_of(source: Source, family: Family, whole: Any) -> Pair:
    """The parts of a whole pair of transformers."""
    bias = getattr(whole, "logit_bias", None)
    scale = whole.temperature.detach().reciprocal().log() if family.has_temperature else whole.logit_scale.detach()
    return Pair(
        source,
        family,
        whole,
        whole.vision_model,
        processed_size(source) or side_of(whole.vision_model.config),
        whole.text_model,
        getattr(whole, "visual_projection", None) or nn.Identity(),
        getattr(whole, "text_projection", None) or nn.Identity(),
        scale.reshape(()).clone(),
        None if bias is None else bias.detach().reshape(()).clone(),
    )


def _of_open_clip(source: Source, family: Family, whole: open_clip_pair.OpenClipPair) -> Pair:
    text = model_config(source)["text_cfg"]
    if text.get("hf_model_name") and family.text_pool == "own" and getattr(whole.text, "pooler", None) is None:
        family = family._replace(text_pool="cls")
    return Pair(
        source,
        family,
        whole,
        whole.image,
        side_of(SimpleNamespace(**{"image_size": 224, **model_config(source)["vision_cfg"]})),
        whole.text,
        whole.image_projection,
        whole.text_projection,
        whole.log_scale.detach().clone(),
        None if whole.bias is None else whole.bias.detach().clone(),
    )


def checked_family(source: Source) -> Family:
    """The family of the pair in a folder.

    Raises:
        UserError: it is none.
    """
    family = family_of(source)
    if isinstance(family, Family):
        return family
    known = "" if source.library == "open_clip" else f" Known pairs: {', '.join(FAMILIES)}, and those of open_clip."
    raise UserError(f"{KEY}={source.name}: {family}{known}")
