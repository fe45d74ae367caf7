"""Text encoders: transformers models with their tokenizers.

Legend: B batch, L text tokens, D width.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmft.batch import Encoded
from mmft.errors import UserError, first_line
from mmft.models.encoder import Encoder, check_own_pool, pool_tokens
from mmft.models.loading.source import Source, check_alone, resolve
from mmft.models.loading.transformers_loading import last_hidden_state, load_transformers
from mmft.models.sentence_transformers import saved_pool
from mmft.models.tokenizer import load_tokenizer

KEY = "model.text_encoder"
_LONGEST = 512  # default for `max_length` where the encoder and its tokenizer allow more
_UNLIMITED = 2**20  # more tokens than any text has; some tokenizers declare 10^30


class TextEncoder(Encoder):
    """Any transformers text encoder: BERT, RoBERTa, DeBERTa, ModernBERT, T5, XLNet, CLIP text, or a decoder (Qwen3).

    Args:
        backbone: the transformers model.
        source: where its weights come from.
        tokenizer: the encoder's own.
        max_length: as for `build_text_encoder`.
        pool: the same, or `own` for the pooled output of the model.
        fixed_length: every text is padded to `positions`, and padding is read like words (SigLIP).

    Attributes:
        tokenizer: the encoder's own; its `model_max_length` is capped at `positions`, so that padding never exceeds it.
        positions: the longest text that the encoder accepts, in tokens.
        max_length: number of tokens to which texts are truncated.
    """

    def __init__(
        self,
        backbone: nn.Module,
        source: Source,
        tokenizer: Any,
        max_length: int | None,
        pool: str,
        fixed_length: bool = False,
    ) -> None:
        tried = try_text(self.reader(backbone), f"{KEY}.name={source.name}")
        super().__init__(backbone, source, tried.width, _checked_pool(pool, source, tried.causal))
        check_own_pool(pool, KEY, tried.own_width, source)
        if pool == "own" and tried.pools_padding and not fixed_length:
            raise UserError(
                f"{KEY}.pool=own: the own pooling of {source.name} changes with the padding of a text. Type "
                f"{KEY}.pool=mean, or model.pair=FOLDER where it is part of a pair"
            )
        self.own_width = tried.own_width
        self.positions = _positions(self.reader(backbone))
        self.fixed_length = fixed_length
        self.tokenizer = tokenizer
        tokenizer.model_max_length = min(tokenizer.model_max_length, self.positions)
        self.max_length = _checked_length(max_length, self.positions, tokenizer)

    def padded(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Ids (B, L) int64 and mask (B, L) bool -> ids (B, L) as the backbone reads them, to `positions` if fixed."""
        if not self.fixed_length:
            return input_ids
        padding = self.tokenizer.pad_token_id
        missing = (0, self.positions - input_ids.shape[1])
        return functional.pad(input_ids.masked_fill(~attention_mask, padding), missing, value=padding)

    @staticmethod
    def reader(backbone: Any) -> Any:
        """The part of the backbone that maps each token to a vector."""
        return backbone

    @property
    def pooled_width(self) -> int:
        """Width of `Encoded.pooled`."""
        return self.own_width if self.pool == "own" else super().pooled_width

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Encoded:
        """Ids (B, L) int64 and mask (B, L) bool, True = real token -> tokens (B, L, D), mask, pooled (B, pooled_width).

        With `fixed_length`, L of the outputs is `positions`.
        """
        backbone = self.reader(self.backbone)
        if self.fixed_length:
            padded = self.padded(input_ids, attention_mask)
            out = backbone(input_ids=padded)
            attention_mask = functional.pad(attention_mask, (0, padded.shape[1] - input_ids.shape[1]), value=False)
        else:
            out = backbone(input_ids=input_ids, attention_mask=attention_mask.long())
        tokens = out.last_hidden_state  # (B, L, D)
        if self.pool == "own":
            return Encoded(tokens, attention_mask, out.pooler_output)
        return Encoded(tokens, attention_mask, pool_tokens(tokens, attention_mask, self.pool, prefix=0))


def build_text_encoder(
    name: str, max_length: int | None, pool: str, pretrained: bool, source: Source | None = None
) -> TextEncoder:
    """Builds the text encoder named in the config, with its tokenizer.

    Args:
        name: a folder or hub name.
        max_length: number of tokens to which texts are truncated; None for the encoder's own maximum, at most 512.
        pool: `auto` (what sentence-transformers saved; else `last` for a causal encoder, `mean` for others), `cls`,
            `mean`, `cls_mean`, `last` or `own`.
        pretrained: False for random weights.
        source: the resolved source, if already known.

    Raises:
        UserError: it cannot be found or built, or its tokenizer does not fit.
    """
    source = source or resolve(name, KEY + ".name")
    check_alone(source, KEY)
    if source.library == "timm":
        raise UserError(f"{KEY}.name={name} is a timm folder, which contains an image encoder.")
    backbone = load_transformers(source, "text", pretrained, KEY, pool == "own")
    tokenizer = load_tokenizer(source, embeddings(backbone), KEY)
    return TextEncoder(backbone, source, tokenizer, max_length, pool)


class Tried(NamedTuple):
    """What one pass over two short texts shows of a text transformer.

    Attributes:
        width: D, the width of a token.
        causal: a token does not see those after it.
        own_width: width of its own pooled output; 0 without one.
        pools_padding: this output is another where the text is padded.
    """

    width: int
    causal: bool
    own_width: int
    pools_padding: bool


def try_text(backbone: Any, where: str) -> Tried:
    """Tries a text transformer on two texts that differ from the second token on, and on a longer, padded one.

    Args:
        backbone: on any device; its train and eval modes are restored.
        where: key and name of the encoder, for messages.

    Raises:
        UserError: it does not map each token to a vector.
    """
    was = {module: module.training for module in backbone.modules()}
    like = next(backbone.parameters())
    ids = torch.tensor([[3, *[4] * 7], [3, *[5] * 7]], device=like.device)  # (2, 8)
    longer = ids[:1].repeat(1, 3)  # (1, 24)
    padded = (torch.arange(24, device=like.device) < 19).long().unsqueeze(0)  # (1, 24)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            given = backbone.eval()(input_ids=ids, attention_mask=torch.ones_like(ids))
            out, pooled = last_hidden_state(given), getattr(given, "pooler_output", None)  # (2, 8, D), (2, P)
            pools_padding = isinstance(pooled, Tensor) and _pools_padding(backbone, ids[:1], pooled[:1])
            backbone.train()(input_ids=longer, attention_mask=padded)  # a Reformer trains on one length alone
    except Exception as error:
        raise UserError(f"{where}: {type(backbone).__name__} cannot read a text: {first_line(error)}") from error
    finally:
        for module, mode in was.items():
            module.training = mode
    if out.ndim != 3 or out.shape[:2] != ids.shape:
        raise UserError(
            f"{where}: {type(backbone).__name__} turns {ids.shape[1]} tokens into an output of shape "
            f"{tuple(out.shape)}, not into one vector each. Choose an encoder that keeps its tokens."
        )
    own_width = pooled.shape[-1] if isinstance(pooled, Tensor) else 0
    causal = torch.allclose(out[0, 0], out[1, 0], rtol=1e-5, atol=1e-7)
    return Tried(out.shape[-1], causal, own_width, pools_padding)


def _pools_padding(backbone: Any, ids: Tensor, pooled: Tensor) -> bool:
    """Whether the pooled output (1, P) of ids (1, L) is another with as much padding behind them."""
    mask = torch.cat([torch.ones_like(ids), torch.zeros_like(ids)], dim=1)  # (1, 2 L)
    padded = backbone(input_ids=ids.repeat(1, 2), attention_mask=mask).pooler_output
    return not torch.allclose(padded, pooled, rtol=1e-3, atol=1e-4)


def _checked_pool(pool: str, source: Source, causal: bool) -> str:
    """`pool` with `auto` resolved.

    Raises:
        UserError: the encoder is causal, and `pool` takes its first token.
    """
    if pool == "auto":
        return saved_pool(source, KEY) or ("last" if causal else "mean")
    if causal and pool.startswith("cls"):
        raise UserError(
            f"{KEY}.pool={pool}: {source.name} is causal, so that its first token is the same for every text. Type "
            f"{KEY}.pool=last"
        )
    return pool


def embeddings(backbone: Any) -> int | None:
    """Number of tokens in the embedding; None for an encoder of characters, which has none (CANINE)."""
    try:
        found = backbone.get_input_embeddings()
    except (NotImplementedError, AttributeError):
        return None
    return int(found.num_embeddings) if isinstance(found, nn.Embedding) else None


def _positions(backbone: Any) -> int:
    """The longest text in tokens; without a limit (T5 and XLNet have relative positions) more than any text has."""
    names = ("max_encoder_position_embeddings", "max_position_embeddings")  # LED, all others
    limits = [n for n in (getattr(backbone.config, name, None) for name in names) if isinstance(n, int) and n > 0]
    for name, module in backbone.named_modules():
        if isinstance(module, nn.Embedding) and name.endswith("position_embeddings"):
            # RoBERTa's positions start after the padding index, so two of them are never used.
            limits.append(module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1))
    return min(limits, default=_UNLIMITED)


def _checked_length(max_length: int | None, positions: int, tokenizer: Any) -> int:
    if max_length is None:
        return min(positions, int(tokenizer.model_max_length), _LONGEST)
    if max_length > positions:
        raise UserError(f"{KEY}.max_length={max_length}: the maximum of this encoder is {positions}.")
    return max_length
