"""`FineTuning`: the LightningModule that trains a model on a task by a tuning plan.

One Lightning batch is one rank's share of one optimizer step (the logical batch). `training_step` gets it whole and
uses manual optimization, so that `global_step`, schedules, logging and checkpoints all count optimizer steps and there
is no state inside an accumulation window.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import Optimizer

from mmft.batch import Batch
from mmft.config.schema.model import ENCODERS
from mmft.errors import TrainingError
from mmft.models.vision_language_model import VisionLanguageModel
from mmft.tasks.base import Task
from mmft.training.accumulation import accumulate, seed_dropout
from mmft.training.evaluating import Evaluating
from mmft.training.gradient_cache import accumulate_pairs
from mmft.training.half_precision import LossScale
from mmft.training.hard_negatives import with_negatives
from mmft.training.modality_dropout import drop_modalities
from mmft.training.objective import Objective, step_losses
from mmft.training.parallel.agreement import Agreement
from mmft.training.parallel.collectives import average_statistics, sum_gradients, summed
from mmft.training.parallel.sharding import Shards, full
from mmft.training.start_decay import StartDecay
from mmft.training.token_budget import divided
from mmft.tuning.plan import TuningPlan

MakeOptimizer = Callable[[list[dict[str, Any]]], Optimizer]


class FineTuning(Evaluating):
    """Trains a model on a task by a tuning plan.

    Args:
        model: the model.
        task: provides the metrics.
        objective: the loss that training minimises.
        plan: which parameters are trained; its groups become the optimizer's.
        make_optimizer: groups -> optimizer.
        clip_norm: maximum gradient norm; None disables clipping.
        seed: seed of dropout.
        log_every_steps: optimizer steps between two lines in the loggers.
        shards: whether the model is sharded over ranks (`trainer=fsdp`).
        modality_dropout: probability that a row is trained on without its image or its text.
        loss_scale: for float16 gradients; None in other precisions.

    Attributes:
        micro_batch_size, micro_batch_tokens: computed at once; set by the `GradientAccumulation` callback.
        step_seconds: duration of each optimizer step.
        logged_loss: the last training loss that was logged, and its optimizer step; None before the first.
    """

    micro_batch_size: int | None = None
    micro_batch_tokens: int | None = None

    def __init__(
        self,
        model: VisionLanguageModel,
        task: Task,
        objective: Objective,
        plan: TuningPlan,
        make_optimizer: MakeOptimizer,
        clip_norm: float | None,
        seed: int,
        log_every_steps: int,
        shards: bool = False,
        modality_dropout: float = 0.0,
        loss_scale: LossScale | None = None,
    ) -> None:
        super().__init__(model, task)
        self.automatic_optimization = False
        self.strict_loading = False  # checkpoints hold trained weights only; on_load_checkpoint checks the names
        self.objective, self.plan = objective, plan
        self.clip_norm = clip_norm
        self.seed = seed
        self.log_every_steps = log_every_steps
        self.modality_dropout = modality_dropout
        self.loss_scale = loss_scale
        self._make_optimizer = make_optimizer
        self._to_be_sharded = shards
        self._shards: Shards | None = None
        self._whole: VisionLanguageModel | None = None  # during an evaluation of a sharded model
        self._trained = plan.parameters
        self._start_decay = StartDecay(plan) if any(group.start_decay for group in plan.groups) else None
        self._weights: Tensor | None = None  # (K,) float64, per term of the last step, over all ranks
        self._unchecked: tuple[Tensor, ...] | None = None  # () loss, () gradient norm, (W,) requests of the last step
        self.agreement = Agreement(alone=True)
        self.step_seconds: list[float] = []
        self.logged_loss: tuple[float, int] | None = None

    def configure_model(self) -> None:
        """Shards the model once the process group exists; called by `ShardedModel`."""
        if self._to_be_sharded and self._shards is None and self.device_mesh is not None:
            self._shards = Shards(self.model, self.device_mesh["data_parallel"])
            self.plan.rebind(self.model)
            self._trained = self.plan.parameters

    def finished(self) -> VisionLanguageModel:
        """The trained model, unsharded on every rank; checks the last step first (see `check_finite`)."""
        self.check_finite()
        if self._shards is not None:
            self.model = self._shards.whole()
        self._shards, self._to_be_sharded = None, False
        return self.model

    @property
    def evaluated(self) -> VisionLanguageModel:
        """The model, or the unsharded copy of a sharded one."""
        return self.model if self._whole is None else self._whole

    def on_validation_epoch_start(self) -> None:
        """Resets the metrics and gathers a sharded model's weights."""
        super().on_validation_epoch_start()
        self._whole = None if self._shards is None else self._shards.whole()

    def on_validation_epoch_end(self) -> None:
        """Logs `val/...` and releases gathered weights."""
        super().on_validation_epoch_end()
        if self._shards is not None:
            self._whole = None
            self._shards.release()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Builds the optimizer over the plan's groups; only `LearningRateWarmup` sets their rates."""
        return self._make_optimizer(self.plan.optimizer_groups())

    def on_fit_start(self) -> None:
        """Sets up `agreement`, now that the number of ranks is known."""
        self.agreement = Agreement(alone=self.trainer.world_size == 1)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """One optimizer step over a logical batch; `batch` is this rank's share."""
        start = time.perf_counter()
        self.check_finite()
        losses, norm, wishes = self.update(batch, self.optimizers(), self.global_step, self.manual_backward)
        self._unchecked = self._checked(losses), norm, wishes
        self._log_step(losses, norm)
        self.step_seconds.append(time.perf_counter() - start)

    def update(
        self, batch: Batch, optimizer: Any, step: int, backward: Callable[[Tensor], object]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The arithmetic of an optimizer step, also used by `mmft check`.

        Args:
            batch: this rank's share of the logical batch.
            optimizer: over the plan's groups.
            step: the step's number, from 0.
            backward: runs the backward pass of a loss.

        Returns:
            (K,) this rank's part of the losses, () gradient norm over all ranks, (W,) summed requests of the ranks, or
            (0,) of one alone.
        """
        optimizer.zero_grad()
        if self._shards is None and len(batch):  # a sharded model reads them
            self.model.count_stand_ins()
        batch = drop_modalities(batch, self.modality_dropout, self.seed, step)
        if self.objective.distillation is not None:
            batch = self.objective.distillation.with_start(batch, self.micro_batch_size, like=self._trained[0])
        weights = self.objective.normalisers(batch)
        told = weights if self.agreement.alone else summed(torch.cat([weights, self.agreement.as_tensor(weights)]))
        self._weights = told[: len(weights)]
        losses = self._backward(batch, step, self._weights, backward)
        if self._shards is None:  # else the backward pass has summed them
            sum_gradients(self._trained)
        norm = self._step(optimizer)
        average_statistics(self.model)
        return losses, norm, told[len(weights) :]

    def _step(self, optimizer: Any) -> Tensor:
        """Unscales and clips the gradient, steps the optimizer, and returns the gradient norm () before clipping.

        After an overflow the step is made without a gradient: weights and moments stay, and it counts like any other
        for the schedule, `global_step` and the loggers. Its log line has its loss, a non-finite norm, and the scale
        that was too large (`train/loss_scale`); `train/skipped_steps` counts such steps.
        """
        scale = self.loss_scale
        if scale is not None:
            scale.unscale(self._trained)
        norm = self._clip()
        if scale is not None and not scale.update(norm):
            optimizer.zero_grad()
        if self._start_decay is not None:
            self._start_decay.step(optimizer)
        optimizer.step()
        return norm

    def _weigh(self, means: Tensor) -> Tensor:
        """(K,) mean terms -> () the scaled loss that is backpropagated."""
        loss = self.objective.weigh(means)
        return loss if self.loss_scale is None else loss * self.loss_scale.value

    def _checked(self, losses: Tensor) -> Tensor:
        """() the loss for `check_finite`: this rank's, since a non-finite gradient norm reveals it to the other ranks.

        After an overflow the norm reveals nothing, so the loss is summed over all ranks.
        """
        loss = self.objective.weigh(losses)
        return summed(loss) if self.loss_scale is not None and self.loss_scale.overflowed else loss

    def _backward(self, batch: Batch, step: int, weights: Tensor, backward: Callable[[Tensor], object]) -> Tensor:
        """Adds this rank's part of the gradient and returns its losses (K,); `weights` (K,) are of all ranks."""
        objective = self.objective

        def before_micro_batch(index: int) -> None:
            seed_dropout(self.seed, step, self.global_rank, index)

        if objective.pairwise:
            return accumulate_pairs(
                batch, self.micro_batch_size, weights, self.model, objective, self._weigh, backward, before_micro_batch
            )
        batch, size = divided(batch, self.micro_batch_size, self.micro_batch_tokens, self.model)
        return accumulate(
            batch,
            size,
            weights,
            lambda rows: objective.sums(*with_negatives(self.model, rows)),
            self._weigh,
            backward,
            before_micro_batch,
            at_least=0 if self._shards is None else self._shards.agree(batch, size),
        )

    def _clip(self) -> Tensor:
        largest = float("inf") if self.clip_norm is None else self.clip_norm
        norm: Tensor = full(torch.nn.utils.clip_grad_norm_(self._trained, largest))
        return norm

    def check_finite(self) -> None:
        """Checks the last step's loss and gradient, before anything is saved and before the next step.

        Raises:
            TrainingError: the loss is not finite, or the gradient is not although there is no loss scale.
        """
        if self._unchecked is None:
            return
        told, self._unchecked = self._unchecked, None
        loss, norm, *wishes = torch.cat([one.to(told[0]).view(-1) for one in told]).tolist()  # one wait for a GPU
        self.agreement.settle(wishes)
        if not (math.isfinite(loss) and (math.isfinite(norm) or self.loss_scale is not None)):
            tuned = any(self.plan.trained[encoder] for encoder in ENCODERS)
            ways = [*(["a lower optim.lr"] if tuned else []), "a lower optim.head_lr", "a longer schedule.warmup"]
            if str(self.trainer.precision) not in ("32-true", "64-true"):
                ways.append("trainer.precision=32-true")
            raise TrainingError(
                f"Optimizer step {self.global_step} has loss {loss} and gradient norm {norm}. Try {', or '.join(ways)}."
            )

    def _log_step(self, losses: Tensor, norm: Tensor) -> None:
        # Lightning's `log` costs more than a small model's step, and counts steps differently on resume.
        if self.global_step == 1 or self.global_step % self.log_every_steps == 0:
            assert self._weights is not None
            told = step_losses(self.objective, summed(losses), self._weights)
            self.logged_loss = told["train/loss"], self.global_step
            if self._start_decay is not None:
                told["train/loss/start_decay"] = float(self._start_decay.penalty())
            told["train/grad_norm"] = float(norm)
            if (scale := self.loss_scale) is not None:
                told |= {"train/loss_scale": scale.used, "train/skipped_steps": float(scale.skipped_steps)}
            groups = self.trainer.optimizers[0].param_groups
            rates = {f"lr/{g['name'].removesuffix('/no_decay')}": float(g["lr"]) for g in groups}
            self._write({**told, **rates})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps only what the run has changed; frozen weights are identified by hash."""
        self.check_finite()
        kept = self.saved_names
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in kept}
        checkpoint["results"] = self.results
        if self.loss_scale is not None:
            checkpoint["loss_scale"] = self.loss_scale.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Rejects a checkpoint whose names are not exactly those that the run changes."""
        difference = set(checkpoint["state_dict"]) ^ self.saved_names
        if difference:
            raise TrainingError(f"The checkpoint does not fit: {len(difference)} names differ, e.g. {min(difference)}.")
        self.results = checkpoint["results"]
        if self.loss_scale is not None:
            self.loss_scale.load_state(checkpoint["loss_scale"])

    @cached_property
    def saved_names(self) -> set[str]:
        """State dict names that a checkpoint holds."""
        return {f"model.{name}" for name in self.plan.saved_names(self.model)}
