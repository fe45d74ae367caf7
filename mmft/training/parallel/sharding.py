"""Fully sharded data parallelism, ZeRO stage 3 (Rajbhandari et al. 2020, arXiv 1910.02054).

By torch's `fully_shard` (Zhao et al. 2023, arXiv 2304.11277, in its second version). Weights, gradients and optimizer
states are sharded over ranks. A transformer block's weights are gathered only for its forward and backward pass;
everything outside the blocks is one more unit. The backward pass itself sums gradients over ranks, so the step must not
sum them again.

Gathering is a collective: all ranks must run the same modules the same number of times. `Shards.agree` ensures this in
training. An evaluation, where ranks have different numbers of batches, runs on an unsharded copy, and so does
everything after training.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Set
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.modules.batchnorm import _BatchNorm

from mmft.batch import Batch, Encoded, RowsAtOnce
from mmft.config.schema.model import ENCODERS
from mmft.errors import UserError
from mmft.models.layers import block_modules
from mmft.models.vision_language_model import VisionLanguageModel
from mmft.training.parallel.collectives import largest


class Shards:
    """Shards a model in place, and can gather an unsharded copy.

    Args:
        model: the same on every rank; its parameters are replaced by `DTensor`s.
        mesh: all ranks, one dimension.

    Raises:
        UserError: the model trains a BatchNorm.
    """

    def __init__(self, model: VisionLanguageModel, mesh: DeviceMesh) -> None:
        _check(model)
        # Some outputs are views, such as a class token's features; nothing here changes them in place.
        warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor", UserWarning)
        model.__class__ = _EncodingTogether  # as `fully_shard` does, too
        self.model: Any = model
        self._whole = _skeleton(model)
        for encoder in ENCODERS:
            for block in block_modules(getattr(model, encoder).backbone):
                fully_shard(block, mesh=mesh, reshard_after_forward=True)
        fully_shard(model, mesh=mesh, reshard_after_forward=False)  # the rest is needed until the forward pass ends
        for module in model.modules():
            if isinstance(module, FSDPModule):  # sum over ranks: the logical batch's weight divides the loss
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(True)  # the only one that gloo has

    def agree(self, batch: Batch, micro_batch_size: RowsAtOnce) -> int:
        """Agrees on an optimizer step's work, so that all ranks join every collective.

        An encoder runs on every rank if some rank has rows for it; otherwise it runs on none and gets no gradient, as
        with one process.

        Args:
            batch: this rank's share.
            micro_batch_size: rows computed at once, see `Batch.split`.

        Returns:
            The number of micro-batches.
        """
        own = [
            sum(1 for _ in batch.split(micro_batch_size)),
            bool(batch.image_present.any()),
            bool(batch.text_present.any()),
        ]
        count, *used = largest(torch.tensor(own, dtype=torch.int64, device=batch.row.device)).tolist()
        self.model.always_encodes = {encoder for encoder, some in zip(ENCODERS, used, strict=True) if some}
        return int(count)

    def whole(self) -> VisionLanguageModel:
        """An unsharded model with the current weights, on every rank; `release` frees them."""
        state = {name: full(value) for name, value in self.model.state_dict().items()}
        self._whole.load_state_dict(state, assign=True)
        return self._whole.to(next(iter(state.values())).device)

    def release(self) -> None:
        """Frees the weights of the unsharded model."""
        state = self._whole.state_dict()
        self._whole.load_state_dict({name: value.to("meta") for name, value in state.items()}, assign=True)


class _EncodingTogether(VisionLanguageModel):
    """Runs encoders that other ranks wait for even if no row here has their modality.

    Such an encoder runs on one row of zeros in the first row's place; its output is unused and its gradients are zero.

    Attributes:
        always_encodes: these encoders; see `Shards.agree`.
    """

    always_encodes: Set[str] = frozenset()
    reads_stand_ins = True  # a gradient that one rank lacks would be waited for

    def encode_image(self, batch: Batch, rows: Tensor | None) -> Encoded:
        """As in the model; tokens (B, N, D)."""
        if "image_encoder" in self.always_encodes and rows is not None and not len(rows):
            size = self.image_encoder.image_size
            batch = replace(batch, pixel_values=batch.row.new_zeros(1, 3, size, size, dtype=torch.uint8))
            rows = rows.new_zeros(1)
        return super().encode_image(batch, rows)

    def encode_text(self, batch: Batch, rows: Tensor | None) -> Encoded:
        """As in the model; tokens (B, L, D)."""
        if "text_encoder" in self.always_encodes and rows is not None and not len(rows):
            ids = batch.row.new_zeros(1, 8)
            batch = replace(batch, input_ids=ids, attention_mask=torch.ones_like(ids, dtype=torch.bool))
            rows = rows.new_zeros(1)
        return super().encode_text(batch, rows)


def full(value: Any) -> Any:
    """Gathers the full tensor of a shard (a collective); returns anything else unchanged."""
    if not isinstance(value, DTensor):
        return value
    detached: Any = value.detach()
    return detached.full_tensor()


def like(value: Tensor, own: Tensor) -> Tensor:
    """This rank's shard of a full tensor, placed as `own` is; not a collective."""
    value = value.to(own.device)
    if not isinstance(own, DTensor):
        return value
    return distribute_tensor(value, own.device_mesh, own.placements, src_data_rank=None)


def load_shards(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copies full tensors into the sharded (and other) tensors of the same names."""
    own = module.state_dict()
    with torch.no_grad():
        for name, value in state.items():
            own[name].copy_(like(value, own[name]))


def _check(model: VisionLanguageModel) -> None:
    for part in ENCODERS:
        encoder = getattr(model, part)
        if any(isinstance(m, _BatchNorm) and m.training for m in encoder.modules()):
            raise UserError(
                f"trainer=fsdp: model.{part} {encoder.source.name} has a BatchNorm, whose statistics would include "
                f"the filler rows that keep ranks in step. Type trainer=ddp, or tune/{part}=freeze."
            )


def _skeleton(model: VisionLanguageModel) -> VisionLanguageModel:
    """A copy without its parameters' memory."""
    meta: dict[int, Any] = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad) for p in model.parameters()
    }
    meta[id(model.text_encoder.tokenizer)] = model.text_encoder.tokenizer
    return copy.deepcopy(model, meta).eval()
