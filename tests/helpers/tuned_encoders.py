"""Small encoders under a tuning method: batches, what a step changes, whether they learn."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import torch
from tiny_encoders import IMAGE_KINDS
from torch import Tensor, nn

from mmft import build
from mmft.config.compose import compose
from mmft.models.encoder import Encoder
from mmft.models.image_encoder import build_image_encoder
from mmft.models.text_encoder import build_text_encoder
from mmft.tuning.methods.base import TuningMethod

ROWS = 6
Fitted = tuple[Encoder, TuningMethod]
Fit = Callable[..., Fitted]


@cache
def _config(typed: tuple[str, ...]) -> Any:
    return compose("train", typed).config


def like_a_pretrained_one(encoder: nn.Module) -> None:
    """Branches that count: at this width, numbers of 0.02 and norms of zero leave next to nothing of them."""
    random = torch.Generator().manual_seed(4)
    for module in encoder.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=1.5 * module.in_features**-0.5, generator=random)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)


def fitting(image_folder: Any, text_folder: Any, overrides: Iterable[str]) -> Fit:
    """`fit(kind, "adapters", "kind=houlsby")`: a small encoder with the method applied, as training has it."""
    rest = [o for o in overrides if not o.startswith("optim.lr")]

    def fit(kind: str, method: str, *keys: str) -> Fitted:
        is_image = kind in IMAGE_KINDS
        part = "image_encoder" if is_image else "text_encoder"
        encoder: Encoder = (
            build_image_encoder(str(image_folder(kind)), 32, "auto", pretrained=True)
            if is_image
            else build_text_encoder(str(text_folder(kind)), None, "auto", pretrained=True)
        )
        like_a_pretrained_one(encoder)
        typed = (f"tune/{part}={method}", *(f"tune.{part}.{key}" for key in keys))
        chosen = build.build_methods(_config((*rest, *typed)).tune)[part]
        torch.manual_seed(0)
        chosen.apply(encoder)
        names = chosen.trained(encoder)
        for name, parameter in encoder.named_parameters():
            parameter.requires_grad_(name in names)
        encoder.live = frozenset()
        encoder.train()
        return encoder, chosen

    return fit


def batch(kind: str, rows: int = ROWS) -> tuple[Tensor, ...]:
    """Random images, or texts of 8 tokens: what the encoder of this kind takes."""
    random = torch.Generator().manual_seed(1)
    if kind in IMAGE_KINDS:
        return (torch.randint(0, 256, (rows, 3, 32, 32), dtype=torch.uint8, generator=random),)
    ids = torch.randint(5, 40, (rows, 8), generator=random)
    return ids, torch.ones_like(ids, dtype=torch.bool)


def features(encoder: Encoder, kind: str) -> Tensor:
    """The pooled features of the batch, in eval mode, without gradients."""
    with torch.no_grad():
        pooled: Tensor = encoder.eval()(*batch(kind)).pooled
    encoder.train()
    return pooled


def hashes(encoder: nn.Module) -> dict[str, str]:
    """SHA-256 of every parameter and buffer, by name."""
    state = {**dict(encoder.named_parameters()), **dict(encoder.named_buffers())}
    return {name: hashlib.sha256(value.detach().numpy().tobytes()).hexdigest() for name, value in state.items()}


def learn(encoder: Encoder, kind: str, lr: float, steps: int) -> list[float]:
    """The loss before each Adam step, under a random head that is frozen; ends where the first has been halved."""
    classes = torch.arange(ROWS) % 3
    head = nn.Linear(encoder.pooled_width, 3, bias=False).requires_grad_(False)
    nn.init.normal_(head.weight, generator=torch.Generator().manual_seed(2))
    optimizer = torch.optim.Adam([p for p in encoder.parameters() if p.requires_grad], lr)
    losses: list[float] = []
    while len(losses) <= steps:
        loss = nn.functional.cross_entropy(head(encoder(*batch(kind)).pooled), classes)
        losses.append(loss.item())
        if losses[-1] < losses[0] / 2:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses


def check_training(fitted: Fitted, kind: str, lr: float, steps_to_change: int = 1) -> None:
    """A step changes the planned parameters and nothing else, only what was added is in train mode, and it learns.

    Args:
        fitted: the encoder and its method.
        kind: of the encoder.
        lr: of the steps that must halve the loss.
        steps_to_change: how many it takes until all have changed: 2 where the last layer is zero at first.
    """
    encoder, method = fitted
    planned, before = method.trained(encoder), hashes(encoder)
    assert planned
    assert planned <= before.keys()
    for step in range(1, steps_to_change + 1):
        learn_once(encoder, kind, step)
        changed = {name for name, value in hashes(encoder).items() if value != before[name]}
        assert changed <= planned
    assert changed == planned
    added = tuple(f"{name}." for name in encoder.adapters)
    in_train_mode = {name for name, module in encoder.named_modules() if module.training}
    assert in_train_mode == {name for name, _ in encoder.named_modules() if f"{name}.".startswith(added)}
    losses = learn(encoder, kind, lr, 200)
    assert losses[-1] < losses[0] / 2, (kind, losses[0], losses[-1])
    final = hashes(encoder)
    assert {name for name in final if final[name] != before[name]} <= planned


def learn_once(encoder: Encoder, kind: str, seed: int) -> None:
    """One Adam step against random directions, one for each row, so that no gradient cancels out."""
    pooled = encoder(*batch(kind)).pooled
    random = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam([p for p in encoder.parameters() if p.requires_grad], 1e-3)
    (pooled * torch.randn(pooled.shape, generator=random)).sum().backward()
    optimizer.step()


def randomise(fitted: Fitted, std: float = 0.5) -> None:
    """Gives what was added random weights, as if it had learned something."""
    encoder, method = fitted
    random, names = torch.Generator().manual_seed(3), method.trained(encoder)
    for name, parameter in encoder.named_parameters():
        if name in names:
            nn.init.normal_(parameter, std=std, generator=random)


def check_padding(fitted: Fitted, kind: str) -> None:
    """Texts of 3 to 8 tokens in one batch have the features that each has alone."""
    encoder, _ = fitted
    encoder.eval()
    ids, mask = batch(kind)
    lengths = torch.arange(ROWS) + 3
    mask = torch.arange(ids.shape[1]) < lengths[:, None]
    pad = encoder.tokenizer.pad_token_id  # type: ignore[union-attr]
    together = torch.where(mask, ids, pad)
    with torch.no_grad():
        out = encoder(together, mask)
        assert out.tokens.shape[:2] == out.mask.shape == ids.shape
        for row, length in enumerate(lengths.tolist()):
            alone = encoder(ids[row : row + 1, :length], torch.ones(1, length, dtype=torch.bool))
            assert torch.allclose(alone.pooled, out.pooled[row : row + 1], atol=1e-5), (kind, row)
            assert torch.allclose(alone.tokens[0], out.tokens[row, :length], atol=1e-5), (kind, row)
