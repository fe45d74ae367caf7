"""Text encoders: transformers models with their tokenizers.

Legend: B batch, L text tokens, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mmft.batch import Encoded
from mmft.errors import UserError
from mmft.models.encoder import Encoder, check_pool, pool_tokens
from mmft.models.source import Source, resolve
from mmft.models.transformers_loading import load_transformers

KEY = "model.text_encoder"
_LONGEST = 512  # cap on the encoder's own maximum: some tokenizers declare 10^30


class TextEncoder(Encoder):
    """Any transformers text encoder: BERT, RoBERTa, DeBERTa-v2, ModernBERT, CLIP and SigLIP text.

    Attributes:
        tokenizer: the encoder's own; its `model_max_length` is capped at `positions`, so that padding never exceeds it.
        positions: the longest text that the encoder accepts, in tokens.
        max_length: number of tokens to which texts are truncated.
    """

    def __init__(self, backbone: nn.Module, source: Source, tokenizer: Any, max_length: int | None, pool: str) -> None:
        config: Any = backbone.config
        super().__init__(backbone, source, int(config.hidden_size), check_pool(pool, KEY, True, auto="mean"))
        if self.pool != "mean" and is_causal(backbone):
            raise UserError(
                f"{KEY}.pool={pool}: {source.name} is causal, so that its first token is the same for every "
                f"text. Type {KEY}.pool=mean"
            )
        self.positions = _positions(config)
        self.tokenizer = tokenizer
        tokenizer.model_max_length = min(tokenizer.model_max_length, self.positions)
        self.max_length = _checked_length(max_length, self.positions, tokenizer)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Encoded:
        """Ids (B, L) int64 and mask (B, L) bool, True = real token -> tokens (B, L, D), mask (B, L), pooled (B, D)."""
        backbone: Any = self.backbone
        out = backbone(input_ids=input_ids, attention_mask=attention_mask.long())
        tokens = out.last_hidden_state  # (B, L, D)
        return Encoded(tokens, attention_mask, pool_tokens(tokens, attention_mask, self.pool, prefix=0))


def build_text_encoder(
    name: str, max_length: int | None, pool: str, pretrained: bool, source: Source | None = None
) -> TextEncoder:
    """Builds the text encoder named in the config, with its tokenizer.

    Args:
        name: a folder or hub name.
        max_length: number of tokens to which texts are truncated; None for the encoder's own maximum, at most 512.
        pool: `auto` (mean), `cls`, `mean` or `cls_mean`.
        pretrained: False for random weights.
        source: the resolved source, if already known.

    Raises:
        UserError: it cannot be found or built.
    """
    source = source or resolve(name, KEY + ".name")
    if source.library == "timm":
        raise UserError(f"{KEY}.name={name} is a timm folder, which contains an image encoder.")
    backbone = load_transformers(source, "text", pretrained, KEY)
    return TextEncoder(backbone, source, load_tokenizer(source), max_length, pool)


def load_tokenizer(source: Source) -> Any:
    """The tokenizer in the encoder's folder."""
    import transformers

    try:
        return transformers.AutoTokenizer.from_pretrained(source.folder)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{KEY}.name={source.name}: cannot load a tokenizer from its folder: {error}") from None


def is_causal(backbone: Any) -> bool:
    """Whether attention is causal: changing the second token leaves the first token's features unchanged."""
    was = backbone.training
    ids = torch.tensor([[0, 1], [0, 2]])  # (2, 2)
    with torch.no_grad():
        out = backbone.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state  # (2, 2, D)
    backbone.train(was)
    return torch.equal(out[0, 0], out[1, 0])


def _positions(config: Any) -> int:
    positions = int(getattr(config, "max_position_embeddings", 0) or _LONGEST)
    # RoBERTa's positions start after the padding index, so two of them are never used.
    offset = int(config.pad_token_id) + 1 if config.model_type in ("roberta", "xlm-roberta", "camembert") else 0
    return positions - offset


def _checked_length(max_length: int | None, positions: int, tokenizer: Any) -> int:
    if max_length is None:
        return min(positions, int(tokenizer.model_max_length), _LONGEST)
    if max_length > positions:
        raise UserError(f"{KEY}.max_length={max_length}: the maximum of this encoder is {positions}.")
    return max_length
