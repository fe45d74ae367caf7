"""Each fusion against its paper's formula or torch's own modules with the same weights, in float64.

Legend: B batch, N image tokens, L text tokens, D features, F width, R rank.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_fusions import B, L, N, alone, double, encoded
from torch import Tensor, nn

from mmft.batch import Encoded, Widths
from mmft.models.fusion.blocks import Attention, Block
from mmft.models.fusion.film import FilmFusion
from mmft.models.fusion.low_rank import LowRankFusion

IMAGE = double(encoded(N, 8, real=[N, N, 1, N]))  # as where the third row has no image
TEXT = double(encoded(L, 12, real=[6, 1, L, 3]))


def exact(fusion: str, **arguments: Any) -> Any:
    """A fusion of tokens that are 8 and 12 wide, 16 wide itself, in float64."""
    return alone(fusion, dropout=0.1, **arguments).double().eval()


def torchs_attention(own: Attention) -> nn.MultiheadAttention:
    reference = nn.MultiheadAttention(own.proj.in_features, own.heads, batch_first=True).double()
    reference.load_state_dict(
        {
            "in_proj_weight": own.qkv.weight,
            "in_proj_bias": own.qkv.bias,
            **{f"out_proj.{k}": v for k, v in own.proj.state_dict().items()},
        }
    )
    return reference.eval()


def torchs_block(own: Block) -> nn.TransformerEncoderLayer:
    width = own.norm1.normalized_shape[0]
    reference = nn.TransformerEncoderLayer(
        width, own.attention.heads, 4 * width, 0.1, "gelu", batch_first=True, norm_first=True
    )
    state = {f"self_attn.{k}": v for k, v in torchs_attention(own.attention).state_dict().items()}
    pairs = [("norm1", own.norm1), ("norm2", own.norm2), ("linear1", own.mlp[0]), ("linear2", own.mlp[3])]
    state |= {f"{name}.{k}": v for name, module in pairs for k, v in module.state_dict().items()}
    reference.double().load_state_dict(state)
    return reference.eval()


def mean(x: Tensor, mask: Tensor) -> Tensor:
    """(B, N, F) -> (B, F), row by row, of real tokens."""
    return torch.stack([row[real].mean(0) for row, real in zip(x, mask, strict=True)])


def in_sequence(fusion: Any) -> tuple[Tensor, Tensor]:
    parts = [fusion.image(IMAGE) + fusion.modality.weight[0], fusion.text(TEXT) + fusion.modality.weight[1]]
    return torch.cat(parts, 1), torch.cat([IMAGE.mask, TEXT.mask], 1)


@torch.no_grad()
def test_gated_is_the_papers_formula() -> None:
    fusion = exact("gated", hidden=16)
    image, text = IMAGE.pooled, TEXT.pooled
    x = nn.functional.layer_norm(torch.cat([image, text], 1), (20,), weight=fusion.norm.weight, bias=fusion.norm.bias)
    z = 1 / (1 + torch.exp(-(x @ fusion.gate.weight.T + fusion.gate.bias)))
    h_i = torch.tanh(x[:, :8] @ fusion.image.weight.T + fusion.image.bias)
    h_t = torch.tanh(x[:, 8:] @ fusion.text.weight.T + fusion.text.bias)
    assert torch.allclose(fusion(IMAGE, TEXT), z * h_i + (1 - z) * h_t, atol=1e-12)


@torch.no_grad()
def test_low_rank_is_the_contraction_of_the_outer_product() -> None:
    """With the whole weight tensor (D_i + 1, D_t + 1, F), which the paper's factors stand for."""
    fusion = exact("low_rank", hidden=16, rank=3)
    x = fusion.norm(torch.cat([IMAGE.pooled, TEXT.pooled], 1))
    one = torch.ones(B, 1, dtype=torch.float64)
    outer = torch.einsum("bi,bt->bit", torch.cat([x[:, :8], one], 1), torch.cat([x[:, 8:], one], 1))
    u, v = (
        torch.cat([factor.weight, factor.bias[:, None]], 1).unflatten(0, (3, 16))
        for factor in (fusion.image, fusion.text)
    )  # (R, F, D + 1)
    tensor = torch.einsum("rfi,rft->itf", u, v)
    assert torch.linalg.matrix_rank(tensor[:, :, 0]) == 3
    assert torch.allclose(fusion(IMAGE, TEXT), torch.einsum("bit,itf->bf", outer, tensor), atol=1e-12)


@pytest.mark.parametrize("rank", [1, 4, 32])
@pytest.mark.parametrize("widths", [(8, 12), (384, 768)])
@torch.no_grad()
def test_low_rank_starts_with_features_of_variance_one(rank: int, widths: tuple[int, int]) -> None:
    """Whatever the widths and the rank; and a modality that is all zeros leaves the other's features."""
    torch.manual_seed(0)
    fusion = LowRankFusion(Widths(8, widths[0]), Widths(8, widths[1]), hidden=2048, rank=rank, dropout=0.0)
    empty = torch.zeros(64, 1, 1), torch.ones(64, 1, dtype=torch.bool)
    image, text = (Encoded(*empty, torch.randn(64, width)) for width in widths)
    assert fusion(image, text).var() == pytest.approx(1.0, abs=0.15)
    without = fusion(image, text._replace(pooled=torch.zeros(64, widths[1])))
    assert (without - without.mean(0)).var() > 0.1


@pytest.mark.parametrize("condition", ["text", "image"])
@torch.no_grad()
def test_film_is_its_formula(condition: str) -> None:
    fusion = exact("film", condition=condition, width=16, layers=3)
    x, y, masks = fusion.image(IMAGE), fusion.text(TEXT), (IMAGE.mask, TEXT.mask)
    if condition == "image":
        x, y, masks = y, x, masks[::-1]
    gammas_and_betas = fusion.modulation(mean(y, masks[1])).split(16, dim=1)
    for i, block in enumerate(fusion.blocks):
        gamma, beta = gammas_and_betas[2 * i : 2 * i + 2]
        normed = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
        modulated = (1 + gamma)[:, None] * normed + beta[:, None]
        hidden = nn.functional.gelu(modulated @ block[0].weight.T + block[0].bias)
        x = x + hidden @ block[3].weight.T + block[3].bias
    assert torch.allclose(fusion(IMAGE, TEXT), fusion.norm(mean(x, masks[0])), atol=1e-12)


@pytest.mark.parametrize("condition", ["text", "image"])
def test_film_starts_as_the_identity_and_learns_from_the_condition(condition: str) -> None:
    """At first nothing of the condition comes through, and the first step changes that."""
    changed = TEXT if condition == "text" else IMAGE
    fusion = FilmFusion(Widths(8, 8), Widths(12, 12), condition, width=16, layers=2, dropout=0.0).double()
    others = [side._replace(tokens=-side.tokens) if side is changed else side for side in (IMAGE, TEXT)]
    before = fusion(IMAGE, TEXT)
    assert torch.equal(before, fusion(*others))
    before.pow(3).sum().backward()
    torch.optim.SGD(fusion.parameters(), lr=0.1).step()
    assert not torch.allclose(fusion(IMAGE, TEXT), fusion(*others))


@torch.no_grad()
def test_merged_is_torchs_transformer_over_all_tokens() -> None:
    fusion = exact("merged", width=16, layers=2)
    tokens, mask = in_sequence(fusion)
    x = torch.cat([fusion.class_token.expand(B, 1, -1), tokens], 1)
    mask = torch.cat([torch.ones(B, 1, dtype=torch.bool), mask], 1)
    for block in fusion.blocks:
        x = torchs_block(block)(x, src_key_padding_mask=~mask)
    assert torch.allclose(fusion(IMAGE, TEXT), fusion.norm(x[:, 0]), atol=1e-12)


@torch.no_grad()
def test_cross_is_torchs_attention_into_the_other_stream() -> None:
    fusion = exact("cross", width=16, layers=2)
    x, y = fusion.image(IMAGE), fusion.text(TEXT)
    for layer in fusion.layers:
        i, t = layer.image_norm(x), layer.text_norm(y)
        x = x + torchs_attention(layer.image_cross)(i, t, t, key_padding_mask=~TEXT.mask)[0]
        y = y + torchs_attention(layer.text_cross)(t, i, i, key_padding_mask=~IMAGE.mask)[0]
        x = torchs_block(layer.image_block)(x, src_key_padding_mask=~IMAGE.mask)
        y = torchs_block(layer.text_block)(y, src_key_padding_mask=~TEXT.mask)
    expected = [fusion.image_norm(mean(x, IMAGE.mask)), fusion.text_norm(mean(y, TEXT.mask))]
    assert torch.allclose(fusion(IMAGE, TEXT), torch.cat(expected, 1), atol=1e-12)


@torch.no_grad()
def test_resampler_is_torchs_attention_of_queries_to_tokens_and_queries() -> None:
    fusion = exact("resampler", width=16, layers=2, queries=3)
    tokens, mask = in_sequence(fusion)
    tokens, mask = fusion.tokens_norm(tokens), torch.cat([mask, torch.ones(B, 3, dtype=torch.bool)], 1)
    x = fusion.queries.expand(B, -1, -1)
    for block in fusion.blocks:
        normed = block.norm1(x)
        seen = torch.cat([tokens, normed], 1)
        x = x + torchs_attention(block.attention)(normed, seen, seen, key_padding_mask=~mask)[0]
        x = x + block.mlp(block.norm2(x))
    assert torch.allclose(fusion(IMAGE, TEXT), fusion.norm(x.mean(1)), atol=1e-12)
