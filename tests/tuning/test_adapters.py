"""Bottleneck adapters in every kind of encoder."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn
from tuned_encoders import Fit, batch, check_padding, check_training, features, randomise

from mmft.errors import UserError
from mmft.models.layers import mix_in
from mmft.models.recompute import Recomputed
from mmft.tuning.methods.adapters import Adapters, Bottleneck

TRANSFORMERS = ("timm_vit", "hf_dinov2", "hf_siglip", "hf_clip")
CONVNETS = ("timm_convnext", "timm_resnet")
TEXTS = ("bert", "roberta", "deberta_v2", "modernbert", "clip")
KINDS = ("pfeiffer", "houlsby", "parallel")
CELLS = [(kind, how) for kind in (*TRANSFORMERS, *TEXTS) for how in KINDS] + [(kind, "pfeiffer") for kind in CONVNETS]


@pytest.mark.parametrize(("kind", "how"), CELLS)
def test_nothing_changes_at_first_and_it_learns(kind: str, how: str, fit: Fit) -> None:
    plain, _ = fit(kind, "freeze")
    fitted = fit(kind, "adapters", f"kind={how}", "width=8")
    assert torch.equal(features(plain, kind), features(fitted[0], kind))
    check_training(fitted, kind, lr=1e-2, steps_to_change=2)
    assert not torch.allclose(features(plain, kind), features(fitted[0], kind), atol=1e-3)


@pytest.mark.parametrize(("kind", "how"), CELLS)
def test_where_they_are(kind: str, how: str, fit: Fit) -> None:
    """One for each block or two, in the block's layer, of the width that is asked for."""
    encoder, method = fit(kind, "adapters", f"kind={how}", "width=8")
    per_block = 2 if how == "houlsby" else 1
    layers = encoder.layers()
    found = [encoder.get_submodule(name) for name in encoder.adapters]
    assert len(found) == (encoder.top_layer - 1) * per_block
    assert {layers[name] for name in method.trained(encoder)} == set(range(1, encoder.top_layer))
    for adapter in found:
        assert isinstance(adapter, Bottleneck)
        assert isinstance(adapter.down, nn.Conv2d if kind in CONVNETS else nn.Linear)
        assert adapter.down.weight.shape[0] == 8


class Inputs:
    """Keeps what goes into a module."""

    def __init__(self, module: nn.Module) -> None:
        self.last = torch.empty(0)
        module.register_forward_pre_hook(lambda _, given: setattr(self, "last", given[0]))


@pytest.mark.parametrize("how", KINDS)
@pytest.mark.parametrize("kind", [*TRANSFORMERS, *TEXTS])
def test_before_the_residual_is_added(kind: str, how: str, fit: Fit) -> None:
    """A bias in the last adapter moves the sum of branch and residual by just as much (LayerScale is one here)."""
    encoder, _ = fit(kind, "adapters", f"kind={how}", "width=8", "scale=0.5")
    encoder.eval()
    last = max(name for name in encoder.adapters if "mlp_adapter" in name)
    block = encoder.get_submodule(last.rpartition(".")[0])
    has_norm_of_sum = isinstance(getattr(getattr(block, "output", None), "LayerNorm", None), nn.Module)
    sums: list[torch.Tensor] = []
    if has_norm_of_sum:
        block.get_submodule("output.LayerNorm").register_forward_pre_hook(lambda _, given: sums.append(given[0]))
    else:
        block.register_forward_hook(lambda _, __, out: sums.append(out))
    moved = torch.linspace(-1, 1, encoder.width)
    with torch.no_grad():
        encoder(*batch(kind))
        encoder.get_parameter(f"{last}.up.bias").copy_(moved)
        encoder(*batch(kind))
    assert torch.allclose(sums[1] - sums[0], 0.5 * moved.expand_as(sums[0]), atol=1e-5)


@pytest.mark.parametrize("kind", ["timm_vit", "bert"])
def test_parallel_sees_the_input_of_the_mlp(kind: str, fit: Fit) -> None:
    encoder, _ = fit(kind, "adapters", "kind=parallel", "width=8")
    name = min(encoder.adapters)
    block = encoder.get_submodule(name.rpartition(".")[0])
    mlp = Inputs(block.get_submodule("mlp" if kind == "timm_vit" else "intermediate"))
    adapter = Inputs(encoder.get_submodule(name))
    features(encoder, kind)
    assert mlp.last.shape == (6, adapter.last.shape[1], 32)
    assert torch.equal(mlp.last, adapter.last)


@pytest.mark.parametrize("kind", ["timm_vit", "timm_resnet", "bert", "modernbert"])
def test_a_copy_has_adapters_of_its_own(kind: str, fit: Fit) -> None:
    fitted = fit(kind, "adapters", "width=8")
    randomise(fitted)
    encoder, _ = fitted
    before = features(encoder, kind)
    copied = copy.deepcopy(encoder)
    for parameter in encoder.parameters():
        parameter.data.zero_()
    assert torch.equal(features(copied, kind), before)
    assert copied.adapters == encoder.adapters


@pytest.mark.parametrize("how", KINDS)
@pytest.mark.parametrize("kind", ["timm_vit", "deberta_v2"])
def test_blocks_that_are_computed_twice_have_the_same_gradients(kind: str, how: str, fit: Fit) -> None:
    gradients = []
    for twice in (False, True):
        fitted = fit(kind, "adapters", f"kind={how}", "width=8")
        randomise(fitted)
        encoder, method = fitted
        blocks = {encoder.get_submodule(name.rpartition(".")[0]) for name in encoder.adapters}
        for block in blocks if twice else ():
            mix_in(block, Recomputed)
        encoder(*batch(kind)).pooled.square().sum().backward()
        gradients.append([encoder.get_parameter(name).grad for name in sorted(method.trained(encoder))])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", TEXTS)
def test_padding(kind: str, fit: Fit) -> None:
    fitted = fit(kind, "adapters", "kind=houlsby", "width=8")
    randomise(fitted)
    check_padding(fitted, kind)


def test_a_run_comes_back(check_saved: Callable[..., None]) -> None:
    check_saved("tune=adapters", "tune.width=8", "tune.text_encoder.kind=houlsby")


def test_48_and_the_encoder_s_own_width(fit: Fit) -> None:
    assert Adapters("tune.image_encoder").width == 48
    encoder, _ = fit("timm_vit", "adapters")
    assert encoder.get_parameter("backbone.blocks.0.mlp_adapter.down.weight").shape == (48, 32)


def test_what_does_not_fit(fit: Fit) -> None:
    for how in ("houlsby", "parallel"):
        with pytest.raises(UserError, match=rf"tune.image_encoder.kind: {how} is for blocks .* Type pfeiffer"):
            fit("timm_resnet", "adapters", f"kind={how}")
    encoder, method = fit("bert", "adapters")
    with pytest.raises(UserError, match=r"tune.text_encoder: .* has no weights to merge .* mmft predict run=RUN"):
        method.merge(encoder)
