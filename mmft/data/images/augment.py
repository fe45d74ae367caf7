"""`Augmentation`: random changes to a training row's image and text, each a pure function of a seed.

Uses torchvision's v2 transforms. They draw from torch's global generator, whose state is restored afterwards, so that
dropout and the rest of the run are not affected; the draws may change between versions of torchvision. Inputs are
never modified in place, because they may be the memory of `ImageMemory`.

Legend: H W image height and width, L text tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.distributions import Beta
from torchvision.transforms import v2  # type: ignore[import-untyped]

from mmft.config.schema.augment import AugmentConfig
from mmft.data.images.mixing import cutmix, mixup
from mmft.errors import UserError

Transform = Callable[[Tensor], Tensor]
"""(3, H, W) uint8 -> the same shape."""
_GREY = [124, 116, 104]  # ImageNet's mean: near 0 after an encoder's normalisation
_OPS, _MAGNITUDE = 2, 9  # RandAugment's defaults in torchvision


class Augmentation:
    """Augments images and texts; each method takes the seed for its draws.

    A crop is taken from the cached image, at the model's size, and enlarged: a crop of 0.35 of the area by 1.7, which
    blurs it slightly. Decoding the image again each time would be several times slower than all augmentation.

    Args:
        config: the keys below `data.augment`.
        image_size: H = W.
        background: red, green, blue from 0 to 255, fills corners after rotation and translation.
        special_ids: tokens that are never dropped (`special_ids` of the tokenizer).
        extra: transforms built from `data.augment.extra`.

    Attributes:
        mixes: whether mixup or cutmix is enabled.
    """

    def __init__(
        self,
        config: AugmentConfig,
        image_size: int,
        background: tuple[int, ...],
        special_ids: list[int],
        extra: Sequence[Transform] = (),
    ) -> None:
        self._transforms = [*_transforms(config, image_size, background), *extra]
        self._token_dropout, self._special = config.token_dropout, torch.tensor(special_ids, dtype=torch.int64)
        alphas = {mixup: config.mixup, cutmix: config.cutmix}
        self._mixing = [(how, Beta(alpha, alpha, validate_args=False)) for how, alpha in alphas.items() if alpha > 0]
        self.mixes = bool(self._mixing)

    def image(self, pixels: Tensor, seed: int) -> Tensor:
        """(3, H, W) uint8 -> augmented, same shape."""
        if not self._transforms:
            return pixels
        with drawing_from(seed):
            made = pixels
            for transform in self._transforms:
                made = transform(made)
        if made.shape != pixels.shape or made.dtype != torch.uint8:  # of a user's
            raise UserError(
                f"data.augment.extra: an augmentation gives {tuple(made.shape)} {made.dtype}; it has to give "
                f"{tuple(pixels.shape)} torch.uint8"
            )
        return made

    def text(self, ids: Tensor, seed: int) -> Tensor:
        """(L,) int64 -> (L' <= L,): drops tokens, but keeps special ones and at least one other."""
        if self._token_dropout == 0:
            return ids
        own = (~torch.isin(ids, self._special)).nonzero()[:, 0]  # positions of droppable tokens
        if not len(own):
            return ids
        with drawing_from(seed):
            draws = torch.rand(len(own))
        goes = draws < self._token_dropout
        goes[draws.argmax()] = False
        kept = torch.ones_like(ids, dtype=torch.bool)
        kept[own[goes]] = False
        return ids[kept]

    def mix(self, own: Tensor, other: Tensor, seed: int) -> tuple[Tensor, float]:
        """Two images (3, H, W) uint8 -> one, and the share of `other` in it, at most 0.5.

        The share is the smaller of x and 1 - x for x from the symmetric Beta(alpha, alpha): a row keeps its own text,
        so most of its image and target must be its own, too. Without texts this only swaps which of the two rows a
        mixture is attributed to.
        """
        with drawing_from(seed):
            how, beta = self._mixing[int(torch.randint(len(self._mixing), ()))]
            share = float(beta.sample())
            return how(own, other, min(share, 1 - share))


def _transforms(config: AugmentConfig, side: int, background: tuple[int, ...]) -> list[Transform]:
    """The configured transforms, in order of application."""
    turned = {"interpolation": v2.InterpolationMode.BILINEAR, "fill": list(background)}
    found: list[Transform] = []
    if config.crop is not None:
        bicubic = v2.InterpolationMode.BICUBIC
        found.append(v2.RandomResizedCrop(side, scale=(config.crop, 1.0), interpolation=bicubic, antialias=True))
    if config.flip > 0:
        found.append(v2.RandomHorizontalFlip(config.flip))
    if config.policy == "trivial_augment":
        found.append(v2.TrivialAugmentWide(**turned))
    if config.policy == "rand_augment":
        ops = _OPS if config.rand_augment_ops is None else config.rand_augment_ops
        magnitude = _MAGNITUDE if config.rand_augment_magnitude is None else config.rand_augment_magnitude
        found.append(v2.RandAugment(ops, magnitude, **turned))
    if config.color_jitter > 0:  # no hue: it would take five times as long
        found.append(v2.ColorJitter(*[config.color_jitter] * 3))
    if config.erasing > 0:
        found.append(v2.RandomErasing(config.erasing, value=_GREY))
    return found


@contextmanager
def drawing_from(seed: int) -> Iterator[None]:
    """Context in which torch's CPU generator starts from `seed`; its state is restored on exit."""
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed: without a GPU it formats a stack trace each time, which takes milliseconds.
        torch.default_generator.manual_seed(seed)
        yield


def in_words(config: AugmentConfig) -> str:
    """The non-default augmentation settings, for the log; empty without augmentation."""
    plain = vars(AugmentConfig())
    return " ".join(f"{name}={value}" for name, value in vars(config).items() if value != plain[name])
