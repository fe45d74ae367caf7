"""Image encoders: timm and transformers vision models, from uint8 pictures to tokens.

Legend: B batch, H W picture height and width, N image tokens, D width.
"""

from __future__ import annotations

import inspect
import json
import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmft.batch import Encoded
from mmft.errors import UserError
from mmft.models.encoder import Encoder, check_pool, pool_tokens
from mmft.models.source import Source, resolve
from mmft.models.transformers_loading import load_transformers

log = logging.getLogger(__name__)
KEY = "model.image_encoder"
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class ImageEncoder(Encoder):
    """Base: normalises uint8 pictures on the device with the encoder's own mean and std."""

    def __init__(self, backbone: nn.Module, source: Source, width: int, pool: str, image_size: int) -> None:
        super().__init__(backbone, source, width, pool)
        self.image_size = image_size
        mean, std = _mean_and_std(source)
        self.register_buffer("mean", 255 * torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def normalise(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 -> the same shape in the encoder's floating dtype."""
        mean, std = self.get_buffer("mean"), self.get_buffer("std")
        return (pixel_values.to(mean.dtype) - mean) / std


class TimmImageEncoder(ImageEncoder):
    """Any timm model: ViTs give their tokens, ConvNets (and Swin) their last feature map as tokens."""

    def __init__(self, backbone: Any, source: Source, image_size: int, pool: str) -> None:
        self.prefix = int(getattr(backbone, "num_prefix_tokens", 0))
        is_vit = hasattr(backbone, "num_prefix_tokens")
        has_class_token = getattr(backbone, "cls_token", None) is not None
        pool = check_pool(pool, KEY, has_class_token, auto="cls" if has_class_token else "mean")
        super().__init__(backbone, source, int(backbone.num_features), pool, image_size)
        self.is_vit = is_vit

    def forward(self, pixel_values: Tensor) -> Encoded:
        """(B, 3, H, W) uint8 -> tokens (B, N, D), mask (B, N) all True, pooled (B, D)."""
        backbone: Any = self.backbone
        features = backbone.forward_features(self.normalise(pixel_values))
        tokens = features if self.is_vit else _as_tokens(features, self.width)  # (B, N, D)
        mask = tokens.new_ones(tokens.shape[:2], dtype=torch.bool)
        if not self.is_vit:  # pooling and final norm of a ConvNet are in its head
            return Encoded(tokens, mask, backbone.forward_head(features, pre_logits=True))
        pooled = pool_tokens(tokens, mask, self.pool, self.prefix)
        return Encoded(tokens, mask, self._final_norm(pooled))

    def _final_norm(self, pooled: Tensor) -> Tensor:
        norm = getattr(self.backbone, "fc_norm", None)  # MAE and BEiT normalise after pooling
        if norm is None or isinstance(norm, nn.Identity):
            return pooled
        return torch.cat([norm(part) for part in pooled.split(self.width, dim=-1)], dim=-1)


class TransformersImageEncoder(ImageEncoder):
    """Any transformers vision model: Dinov2, ViT, Siglip, CLIP vision, ConvNext, ResNet."""

    def __init__(self, backbone: nn.Module, source: Source, image_size: int, pool: str) -> None:
        config: Any = backbone.config
        self.prefix = _prefix_tokens(backbone)
        pool = check_pool(pool, KEY, self.prefix > 0, auto="cls" if self.prefix else "mean")
        width = getattr(config, "hidden_size", None) or config.hidden_sizes[-1]
        super().__init__(backbone, source, int(width), pool, image_size)
        accepts = inspect.signature(backbone.forward).parameters
        self.options = {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in accepts else {}
        # CLIP applies its final norm to the class token only, outside last_hidden_state.
        self.norm_tokens = config.model_type == "clip_vision_model"

    def forward(self, pixel_values: Tensor) -> Encoded:
        """(B, 3, H, W) uint8 -> tokens (B, N, D), mask (B, N) all True, pooled (B, D)."""
        backbone: Any = self.backbone
        features = backbone(pixel_values=self.normalise(pixel_values), **self.options).last_hidden_state
        tokens = features if features.ndim == 3 else _as_tokens(features, self.width)  # (B, N, D)
        if self.norm_tokens:
            tokens = backbone.post_layernorm(tokens)
        mask = tokens.new_ones(tokens.shape[:2], dtype=torch.bool)
        pooled = pool_tokens(tokens, mask, self.pool, self.prefix)
        norm = getattr(backbone, "layernorm", None)
        if features.ndim == 4 and isinstance(norm, nn.LayerNorm):  # ConvNext normalises after pooling
            pooled = norm(pooled)
        return Encoded(tokens, mask, pooled)


def build_image_encoder(
    name: str, image_size: int | None, pool: str, pretrained: bool, source: Source | None = None
) -> ImageEncoder:
    """The image encoder that the config names.

    Args:
        name: a folder or hub name.
        image_size: height and width in pixels, positions are resampled; None: the encoder's own.
        pool: `auto`, `cls`, `mean` or `cls_mean`.
        pretrained: False gives random weights.
        source: where it is, if that is known already.

    Raises:
        UserError: it cannot be found or built so.
    """
    source = source or resolve(name, KEY + ".name")
    if source.library == "timm":
        backbone, size = _build_timm(source, image_size, pretrained)
        return TimmImageEncoder(backbone, source, size, pool)
    backbone = load_transformers(source, "vision", pretrained, KEY)
    size = image_size or getattr(backbone.config, "image_size", None) or 224
    return TransformersImageEncoder(backbone, source, _side(size), pool)


def _build_timm(source: Source, image_size: int | None, pretrained: bool) -> tuple[nn.Module, int]:
    import timm

    own = source.config.get("pretrained_cfg", {}).get("input_size") or (3, 224, 224)
    size = image_size or int(own[-1])
    folder = f"local-dir:{source.folder}"
    options: dict[str, Any] = {"pretrained": pretrained, "num_classes": 0}
    try:
        try:
            model: Any = timm.create_model(folder, img_size=size, **options)
        except TypeError as error:  # ConvNets take any size and no such argument
            if "img_size" not in str(error):
                raise
            model = timm.create_model(folder, **options)
    except (RuntimeError, AssertionError, TypeError, ValueError, OSError) as error:
        raise UserError(f"{KEY}.name={source.name}, image_size={size}: timm cannot build it: {error}") from None
    if getattr(model, "attn_pool", None) is not None:  # we pool ourselves; it would never get a gradient
        model.attn_pool = None
    return model, size


def _prefix_tokens(backbone: nn.Module) -> int:
    embeddings = getattr(backbone, "embeddings", None)
    has_class = any(hasattr(embeddings, name) for name in ("cls_token", "class_embedding"))
    return int(has_class) + int(getattr(backbone.config, "num_register_tokens", 0) or 0)


def _as_tokens(features: Tensor, width: int) -> Tensor:
    """A feature map (B, D, H, W) or (B, H, W, D) as tokens (B, H W, D)."""
    channels_first = features.shape[1] == width and features.shape[-1] != width
    return (
        features.flatten(2).transpose(1, 2) if channels_first or features.shape[-1] != width else features.flatten(1, 2)
    )


def _side(size: Any) -> int:
    return int(size if isinstance(size, int) else size[-1])


def _mean_and_std(source: Source) -> tuple[Any, Any]:
    own = source.config.get("pretrained_cfg", {})
    mean, std = own.get("mean"), own.get("std")
    file = Path(source.folder) / "preprocessor_config.json"
    if mean is None and file.exists():
        own = json.loads(file.read_text(encoding="utf-8"))
        mean, std = own.get("image_mean"), own.get("image_std")
    if mean is None or std is None:
        log.info("%s: %s says no mean and std of pixels; ImageNet's are used.", KEY, source.name)
        return _IMAGENET
    return mean, std
