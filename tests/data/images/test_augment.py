"""Augmentation changes what it should and nothing else, and is the same for ever for one seed."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F  # type: ignore[import-untyped]
from transformers import PreTrainedTokenizerFast

from mmft.config.schema.augment import AugmentConfig
from mmft.data.images.augment import Augmentation, drawing_from, in_words
from mmft.data.images.mixing import cutmix, mixup
from mmft.data.text import special_ids

OF_IMAGES: dict[str, dict[str, Any]] = {
    "crop": {"crop": 0.5},
    "flip": {"flip": 1.0},
    "trivial_augment": {"policy": "trivial_augment"},
    "rand_augment": {"policy": "rand_augment"},
    "color_jitter": {"color_jitter": 0.4},
    "erasing": {"erasing": 1.0},
}
SIDE = 48


def images(count: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randint(256, (count, 3, 6, 6), generator=generator, dtype=torch.uint8)
    return list(F.resize(coarse, [SIDE, SIDE]))


def augmentation(special: list[int] | None = None, **keys: Any) -> Augmentation:
    return Augmentation(AugmentConfig(**keys), SIDE, (255, 255, 255), special or [])


@pytest.mark.parametrize("name", OF_IMAGES)
def test_a_image_is_changed_by_its_seed_alone_and_not_in_place(name: str) -> None:
    own = images()[0]
    before = own.clone()
    found = [augmentation(**OF_IMAGES[name]).image(own, seed) for seed in (*range(8), 3)]
    assert torch.equal(own, before)
    assert all(f.shape == own.shape and f.dtype == torch.uint8 for f in found)
    assert torch.equal(found[3], found[8])
    assert sum(not torch.equal(f, own) for f in found) >= 6  # a policy may draw "as it is"
    if name != "flip":
        assert len({f.numpy().tobytes() for f in found}) >= 6


def test_a_flip_is_one_and_chance_decides() -> None:
    own = images()[0]
    half = augmentation(flip=0.5)
    flipped = [torch.equal(half.image(own, seed), own.flip(2)) for seed in range(200)]
    assert 70 < sum(flipped) < 130
    assert torch.equal(augmentation(flip=1).image(own, 0), own.flip(2))


def test_empty_corners_are_of_the_background() -> None:
    black = torch.zeros(3, SIDE, SIDE, dtype=torch.uint8)
    config = AugmentConfig(policy="rand_augment", rand_augment_ops=4, rand_augment_magnitude=20)
    change = Augmentation(config, SIDE, (10, 200, 30), [])
    greens = [found[1].max().item() for seed in range(20) if not (found := change.image(black, seed))[0].max() > 10]
    assert greens.count(200) >= 3


def test_magnitude_and_ops_count() -> None:
    own = images()[0]
    settings: list[dict[str, Any]] = [{}, {"rand_augment_ops": 5}, {"rand_augment_magnitude": 20}]
    found = [augmentation(policy="rand_augment", **s).image(own, 1) for s in settings]
    assert len({f.numpy().tobytes() for f in found}) == 3


def test_no_generator_moves() -> None:
    everything = augmentation(
        crop=0.3, flip=0.5, policy="rand_augment", color_jitter=0.3, erasing=0.5, mixup=1, cutmix=1, token_dropout=0.5
    )
    own, other = images()
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tobytes()  # type: ignore[index,union-attr] # noqa: NPY002
    for seed in range(3):
        everything.mix(everything.image(own, seed), other, seed)
        everything.text(torch.arange(9), seed)
    with pytest.raises(ZeroDivisionError), drawing_from(1):
        torch.rand(1).div_(1).apply_(lambda _: 1 // 0)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (random.getstate(), np.random.get_state()[1].tobytes())  # type: ignore[index,union-attr] # noqa: NPY002


def test_nothing_asked_is_nothing_done() -> None:
    own, ids = images()[0], torch.arange(5)
    plain = augmentation()
    assert plain.image(own, 0) is own
    assert plain.text(ids, 0) is ids
    assert not plain.mixes
    assert in_words(AugmentConfig()) == ""
    assert in_words(AugmentConfig(crop=0.5, policy="rand_augment")) == "crop=0.5 policy=rand_augment"


def test_tokens_are_left_out_but_special_ones_and_one_more(tokenizer: PreTrainedTokenizerFast) -> None:
    special = special_ids(tokenizer)
    assert special == [0]  # [UNK] is a word; [CLS] and [SEP] are not named special by this tokenizer
    ids = torch.tensor([0, *range(1, 101), 0])
    change = augmentation(special, token_dropout=0.3)
    counts = []
    for seed in range(50):
        left = change.text(ids, seed)
        assert torch.equal(left, change.text(ids, seed))
        assert left.dtype == torch.int64
        assert left[0] == left[-1] == 0
        assert (left[1:-1].diff() > 0).all()  # in their order
        counts.append(len(left) - 2)
    assert abs(sum(counts) / 50 - 70) < 2
    nearly_all = augmentation(special, token_dropout=0.999)
    assert {len(nearly_all.text(ids, seed)) for seed in range(20)} <= {3, 4}
    assert nearly_all.text(torch.tensor([0, 0]), 0).tolist() == [0, 0]
    assert len(nearly_all.text(torch.zeros(0, dtype=torch.int64), 0)) == 0


def test_special_tokens_are_those_that_are_no_words(tokenizer: PreTrainedTokenizerFast) -> None:
    named = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, pad_token="[PAD]", unk_token="[UNK]", eos_token="[UNK]",
        cls_token="[CLS]", additional_special_tokens=["title"],
    )  # fmt: skip
    assert special_ids(named) == [0, 1, 2, 11]  # 1: as in CLIP, the end of a text and an unknown word are the same


def test_mixup_is_the_weighted_mean() -> None:
    own, other = images()
    mixed, share = mixup(own, other, 0.25)
    assert share == 0.25
    assert (mixed.double() - (0.75 * own.double() + 0.25 * other.double())).abs().max() <= 0.5 + 1e-3
    assert torch.equal(mixup(own, other, 0)[0], own)


def test_cutmix_is_a_rectangle_whose_share_is_told() -> None:
    own, other = torch.zeros(3, 40, 60, dtype=torch.uint8), torch.ones(3, 40, 60, dtype=torch.uint8)
    shares = []
    for seed in range(100):
        with drawing_from(seed):
            mixed, share = cutmix(own, other, 0.3)
        assert mixed.float().mean().item() == pytest.approx(share)
        rows, columns = (mixed[0].amax(axis) for axis in (1, 0))
        assert (rows.float().sum() * columns.float().sum()).item() == pytest.approx(share * 40 * 60, abs=0.01)
        shares.append(share)
    assert 0.27 < max(shares) <= 0.3  # whole pixels
    assert 0.15 < sum(shares) / 100 < 0.28
    assert not own.any()


def test_most_of_a_mixture_is_the_rows_own_and_each_way_has_half() -> None:
    own, other = torch.zeros(3, 16, 16, dtype=torch.uint8), torch.full((3, 16, 16), 200, dtype=torch.uint8)
    both = augmentation(mixup=1.0, cutmix=1.0)
    found = [both.mix(own, other, seed) for seed in range(300)]
    shares = torch.tensor([share for _, share in found])
    assert 0 <= shares.min() < 0.02
    assert 0.45 < shares.max() <= 0.5
    blended = [bool(((mixed > 0) & (mixed < 200)).any()) for mixed, _ in found]
    assert 110 < sum(blended) < 190
    narrow = torch.tensor([augmentation(mixup=0.1).mix(own, other, seed)[1] for seed in range(200)])
    assert narrow.median() < 0.02 < 0.2 < shares[torch.tensor(blended)].median()  # what alpha does
