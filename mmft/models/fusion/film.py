"""FiLM fusion: one modality scales and shifts the features of the other.

Feature-wise linear modulation (Perez et al. 2018, arXiv 1709.07871) of a token x by the condition c, in each block:

    x <- x + MLP((1 + gamma(c)) * norm(x) + beta(c))

The paper modulates residual blocks of convolutions after a norm without affine weights, also by 1 + gamma. A
transformer has mixed its tokens already, so here each goes through an MLP, as in DiT's adaLN (arXiv 2212.09748).
gamma and beta start at 0: at first the condition has no effect and the pretrained features pass through.

Legend: B batch, N L image and text tokens, D_i D_t their widths, F width of the fusion, K blocks.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from mmft.batch import Encoded, Widths
from mmft.config.schema.fusion import FilmConfig
from mmft.models.fusion.base import Fusion
from mmft.models.fusion.blocks import Projection, mean_of_real, mlp

Condition = Literal["text", "image"]


class FilmFusion(Fusion):
    """Modulates the tokens of one modality by the mean of the other's, and returns their mean.

    The head sees the condition only through its effect on the other modality.
    """

    facts = FilmConfig

    def __init__(
        self, image: Widths, text: Widths, condition: Condition, width: int, layers: int, dropout: float
    ) -> None:
        """Args are the encoders' widths, the modality that modulates the other, F, K, and dropout."""
        super().__init__()
        self.width = width
        self.condition = condition
        self.image = Projection(image.tokens, width)
        self.text = Projection(text.tokens, width)
        self.modulation = nn.Linear(width, layers * 2 * width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList([mlp(width, dropout) for _ in range(layers)])
        self.norm = nn.LayerNorm(width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, image: Encoded, text: Encoded) -> Tensor:
        """Tokens (B, N, D_i) and (B, L, D_t) with their masks, or the other way round -> (B, F)."""
        sides = [(self.dropout(self.image(image)), image.mask), (self.dropout(self.text(text)), text.mask)]
        (x, mask), condition = sides if self.condition == "text" else sides[::-1]  # x (B, N, F), or L for N
        modulations = self.modulation(mean_of_real(*condition)).view(x.shape[0], len(self.blocks), 2, 1, self.width)
        for block, (gamma, beta) in zip(self.blocks, modulations.permute(1, 2, 0, 3, 4), strict=True):  # (B, 1, F) each
            x = x + block((1 + gamma) * functional.layer_norm(x, (self.width,)) + beta)
        out: Tensor = self.norm(mean_of_real(x, mask))  # (B, F)
        return out
