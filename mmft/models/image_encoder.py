"""Image encoders: timm and transformers vision models, from uint8 images to tokens.

Legend: B batch, H W image height and width, N image tokens, D width.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmft.batch import Encoded
from mmft.errors import UserError, first_line
from mmft.models.encoder import Encoder, check_own_pool, check_pool, pool_tokens
from mmft.models.feature_layer import check_end, end_at
from mmft.models.loading.output_widths import output_widths
from mmft.models.loading.source import Source, check_alone, resolve
from mmft.models.loading.timm_loading import load_timm
from mmft.models.loading.transformers_loading import load_transformers, pooled_norm
from mmft.models.preprocessing import check_patches, check_square, mean_and_std, patch_size_of, side_of

log = logging.getLogger(__name__)
KEY = "model.image_encoder"
# CLIP and its kind apply the final norm to the class token only, outside last_hidden_state.
_NORM_CLASS_TOKEN = tuple(f"{kind}_vision_model" for kind in ("clip", "metaclip_2", "chinese_clip", "altclip"))


class ImageEncoder(Encoder):
    """Base: normalises uint8 images on the device with the encoder's own mean and standard deviation.

    Attributes:
        prefix: number of class and register tokens in front of the patches.
        reads_pieces: whether it reads `Pieces`.
        after_blocks: what came after its blocks, by name, if it ends at one of them; see `mmft.models.feature_layer`.
    """

    prefix: int = 0
    reads_pieces = False
    after_blocks: Mapping[str, nn.Module] | None = None

    def __init__(self, backbone: nn.Module, source: Source, width: int, pool: str, image_size: int) -> None:
        super().__init__(backbone, source, width, pool)
        self.image_size = image_size
        mean, std = mean_and_std(source, KEY)
        self.register_buffer("mean", 255 * torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def blank(self, images: int) -> Any:
        """(B, 3, H, W) uint8 zeros, which take no memory; or what else `forward` takes for so many images."""
        shape = (3, self.image_size, self.image_size)
        return torch.zeros((), dtype=torch.uint8, device=self.get_buffer("mean").device).expand(images, *shape)

    def normalise(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 -> the same shape in the encoder's floating dtype."""
        mean, std = self.get_buffer("mean"), self.get_buffer("std")
        return (pixel_values.to(mean.dtype) - mean) / std

    def _normed(self, pooled: Tensor, norm: nn.Module | None) -> Tensor:
        """Applies the norm that some encoders have after pooling: (B, D), or (B, 2 D) in two halves -> same shape."""
        if norm is None or isinstance(norm, nn.Identity):
            return pooled
        return torch.cat([norm(part) for part in pooled.split(self.width, dim=-1)], dim=-1)

    def _normed_tokens(self, tokens: Tensor, norm: nn.Module | None) -> Tensor:
        """Applies a norm that the encoder has only after pooling to its tokens, (B, N, D) -> (B, N, D).

        This gives tokens the scale of the final norm, and uses every parameter even if a fusion reads only tokens.
        """
        if not isinstance(norm, nn.LayerNorm) or norm.normalized_shape != (self.width,):
            return tokens
        # Not `norm(tokens)`: the norm of a timm ConvNet expects (B, D, H, W).
        return functional.layer_norm(tokens, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


class TimmImageEncoder(ImageEncoder):
    """Any timm model: ViTs return their tokens, all others their last feature map as tokens.

    Models with a class token or a `num_prefix_tokens` attribute are pooled here. For the others `mean` is the pooling
    of their own head, which may end in a hidden layer (MobileNetV3); `pooled_width` is then that layer's width. `own`
    is the output of the whole head.
    """

    def __init__(self, backbone: Any, source: Source, image_size: int, pool: str, auto_pool: str = "cls") -> None:
        has_class_token = getattr(backbone, "cls_token", None) is not None
        prefix = int(getattr(backbone, "num_prefix_tokens", has_class_token))
        own_pool = pool
        pool = check_pool(pool, KEY, has_class_token, auto=auto_pool if has_class_token else "mean")
        super().__init__(backbone, source, int(backbone.num_features), pool, image_size)
        self.prefix = prefix
        self.pools_tokens = has_class_token or hasattr(backbone, "num_prefix_tokens")
        self._head_width = self._tried(own_pool)

    @property
    def _has_head(self) -> bool:
        """Whether the model's own head pools."""
        return self.pool == "own" or not self.pools_tokens

    @property
    def pooled_width(self) -> int:
        """Width of `Encoded.pooled`."""
        return self._head_width if self._has_head else super().pooled_width

    def forward(self, pixel_values: Tensor) -> Encoded:
        """(B, 3, H, W) uint8 -> tokens (B, N, D), mask (B, N) all True, pooled (B, pooled_width)."""
        backbone: Any = self.backbone
        features = backbone.forward_features(self.normalise(pixel_values))  # tokens or a feature map
        last = getattr(backbone, "output_fmt", None) == "NHWC"  # timm's name for (B, H, W, D)
        tokens = _as_tokens(features, self.width, channels_last=last)  # (B, N, D)
        mask = tokens.new_ones(tokens.shape[:2], dtype=torch.bool)
        norm = getattr(backbone, "fc_norm", None)
        if not self.pools_tokens:  # a ConvNet's head holds its pooling and final norm
            norm = getattr(getattr(backbone, "head", None), "norm", None)
        if self._has_head:
            pooled = backbone.forward_head(features, pre_logits=self.pool != "own")
            return Encoded(self._normed_tokens(tokens, norm), mask, pooled)
        pooled = self._normed(pool_tokens(tokens, mask, self.pool, self.prefix), norm)  # (B, pooled_width)
        return Encoded(self._normed_tokens(tokens, norm), mask, pooled)

    def _tried(self, pool: str) -> int:
        """The pooled width, measured on one image, because many architectures do not declare it.

        Raises:
            UserError: the architecture does not accept this image size, or its tokens cannot be pooled this way.
        """
        where = f"{KEY}.name={self.source.name}, image_size={self.image_size}"
        backbone: Any = self.backbone
        was = self.training
        self.eval()
        try:
            with torch.no_grad():
                size = self.image_size
                features = backbone.forward_features(torch.zeros(1, 3, size, size))
                if not isinstance(features, Tensor):
                    raise UserError(f"{where}: it returns more than one set of tokens. Choose another architecture")
                if (
                    not self._has_head
                    and features.ndim == 3
                    and features.shape[1] <= self.prefix
                    and self.pool != "cls"
                ):
                    raise UserError(f"{KEY}.pool={pool}: this encoder returns only a class token. Type {KEY}.pool=cls")
                if self._has_head:
                    return int(backbone.forward_head(features, pre_logits=self.pool != "own").shape[-1])
                return int(self.width)
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{where}: it does not accept images of this size: {first_line(error)}") from error
        finally:
            self.train(was)


class TransformersImageEncoder(ImageEncoder):
    """Any transformers vision model: Dinov2, ViT, Siglip, CLIP vision, ConvNext, ResNet."""

    def __init__(self, backbone: nn.Module, source: Source, image_size: int, pool: str, auto_pool: str = "cls") -> None:
        config: Any = backbone.config
        prefix = _prefix_tokens(backbone)
        pool = check_pool(pool, KEY, prefix > 0, auto=auto_pool if prefix else "mean")
        options = _options(backbone)
        tried = output_widths(backbone, source, image_size, options, KEY)
        super().__init__(backbone, source, tried.tokens, pool, image_size)
        check_own_pool(pool, KEY, tried.own, source)
        self.own_width = tried.own
        self.prefix = prefix
        self.options = options
        self.takes_noise = config.model_type == "vit_mae"
        self.norm_tokens = config.model_type in _NORM_CLASS_TOKEN

    @property
    def pooled_width(self) -> int:
        """Width of `Encoded.pooled`."""
        return self.own_width if self.pool == "own" else super().pooled_width

    def forward(self, pixel_values: Tensor) -> Encoded:
        """(B, 3, H, W) uint8 -> tokens (B, N, D), mask (B, N) all True, pooled (B, pooled_width)."""
        backbone: Any = self.backbone
        pixels = self.normalise(pixel_values)
        options = self.options | ({"noise": _in_order(backbone, pixels)} if self.takes_noise else {})
        out = backbone(pixel_values=pixels, **options)
        features = out.last_hidden_state
        tokens = _as_tokens(features, self.width, channels_last=False)  # (B, N, D)
        if self.norm_tokens:
            tokens = backbone.post_layernorm(tokens)  # same norm for every token
        mask = tokens.new_ones(tokens.shape[:2], dtype=torch.bool)
        if self.pool == "own":
            return Encoded(tokens, mask, out.pooler_output.flatten(1))  # a ConvNet pools to (B, D, 1, 1)
        pooled = pool_tokens(tokens, mask, self.pool, self.prefix)  # (B, D) or (B, 2 D)
        norm = pooled_norm(backbone)
        if features.ndim == 4 and isinstance(getattr(backbone, "layernorm", None), nn.LayerNorm):
            norm = backbone.layernorm  # ConvNext normalises after pooling
        return Encoded(self._normed_tokens(tokens, norm), mask, self._normed(pooled, norm))


def build_image_encoder(
    name: str,
    image_size: int | None,
    pool: str,
    pretrained: bool,
    feature_layer: int | None = None,
    source: Source | None = None,
    auto_pool: str = "cls",
) -> ImageEncoder:
    """Builds the image encoder named in the config.

    Args:
        name: a folder or hub name.
        image_size: height and width in pixels, positions are resampled; None for the encoder's own.
        pool: `auto`, `cls`, `mean`, `cls_mean` or `own`.
        pretrained: False for random weights.
        feature_layer: the block that tokens are read from, without a norm; None for the encoder's whole.
        source: the resolved source, if already known.
        auto_pool: meaning of `auto` for an encoder with a class token: `cls` or `cls_mean`; otherwise it is `mean`.

    Raises:
        UserError: it cannot be found or built.
    """
    source = source or resolve(name, KEY + ".name")
    check_alone(source, KEY)
    kind: type[TimmImageEncoder | TransformersImageEncoder] = TransformersImageEncoder
    if source.library == "timm":
        kind = TimmImageEncoder
        backbone, size = load_timm(source, image_size, pretrained, KEY, pool == "own")
        check_patches(image_size, patch_size_of(backbone), KEY)
    else:
        check_square(source, KEY)
        backbone = load_transformers(source, "vision", pretrained, KEY, pool == "own")
        size = image_size or side_of(backbone.config) or 224
        if size != side_of(backbone.config):  # SigLIP's own 384 pixels are 27 patches of 14, and a rest
            check_patches(image_size, patch_size_of(backbone), KEY)
    if feature_layer is None:
        return kind(backbone, source, size, pool, auto_pool)
    where = f"{KEY}.feature_layer={feature_layer}: {source.name}"
    dropped = end_at(backbone, feature_layer, where)
    try:
        made = kind(backbone, source, size, pool, auto_pool)
    except UserError as error:
        raise UserError(f"{where} cannot end there ({error}). Leave it out") from error
    made.after_blocks = dropped
    check_end(made, where)
    return made


def _prefix_tokens(backbone: nn.Module) -> int:
    embeddings = getattr(backbone, "embeddings", None)
    has_class = any(getattr(embeddings, name, None) is not None for name in ("cls_token", "class_embedding"))
    distilled = getattr(embeddings, "distillation_token", None) is not None  # DeiT
    return int(has_class) + int(distilled) + int(getattr(backbone.config, "num_register_tokens", 0) or 0)


def _options(backbone: nn.Module) -> dict[str, Any]:
    """What a transformers model is called with besides pixels."""
    accepts = inspect.signature(backbone.forward).parameters
    return {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in accepts else {}


def _in_order(backbone: Any, pixels: Tensor) -> Tensor:
    """(B, N) increasing noise for ViT-MAE, which sorts patches by noise and draws it at random by default."""
    height, width = backbone.embeddings.patch_embeddings.patch_size
    patches = (pixels.shape[-2] // height) * (pixels.shape[-1] // width)
    return torch.arange(patches, device=pixels.device, dtype=torch.float32).expand(pixels.shape[0], -1)


def _as_tokens(features: Tensor, width: int, channels_last: bool) -> Tensor:
    """Tokens (B, N, D) unchanged, or a feature map (B, D, H, W) or (B, H, W, D) as tokens (B, H W, D).

    Args:
        features: tokens or a feature map.
        width: D, which distinguishes the two layouts.
        channels_last: the map is known to be (B, H, W, D), even if H = D.
    """
    if features.ndim == 3:
        return features
    if channels_last or features.shape[1] != width:
        return features.flatten(1, 2)
    return features.flatten(2).transpose(1, 2)
