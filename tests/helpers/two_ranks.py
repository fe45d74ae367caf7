"""What two ranks compute, beside what one process computes; run by test_two_ranks.py, as one pair of processes.

    python two_ranks.py OUT RESNET OVERRIDES...      with what torchrun sets: RANK, LOCAL_RANK, WORLD_SIZE, MASTER_...

RESNET is the folder of an image encoder with running statistics. Each rank writes OUT/<rank>.json.
"""

from __future__ import annotations

import copy
import json
import os
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from auxiliary_losses import aligned_errors
from pairwise_gradients import pair_errors
from thawing import thawed_alone, thawed_together
from torch import Tensor, distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from mmft import build
from mmft.batch import Batch, Outputs
from mmft.config.compose import compose
from mmft.data.order import evaluation_batches
from mmft.data.splitting.splits import load_splits
from mmft.models.vision_language_model import VisionLanguageModel
from mmft.tasks.base import Task
from mmft.tasks.classification import Classification
from mmft.tasks.regression import Regression
from mmft.tasks.several import Several
from mmft.training.accumulation import accumulate
from mmft.training.calibrate import tune_on_validation
from mmft.training.evaluating import Evaluating
from mmft.training.half_precision import LossScale
from mmft.training.parallel.agreement import Agreement
from mmft.training.parallel.collectives import average_statistics, end_collectives, gathered, sum_gradients, summed
from mmft.training.parallel.rendezvous import join
from mmft.training.parallel.sharding import Shards, full, like

ROWS = 32


class Case:
    """A model without dropout and the first rows of the sample, weighted and partly without a modality."""

    def __init__(self, overrides: list[str]) -> None:
        self.overrides = overrides
        options = ["task.class_weights=balanced", "model.dropout=0", f"data.batch_size={ROWS}"]
        self.config = compose("train", [*overrides, *options]).config
        splits = load_splits(self.config.data, 0)
        self.task: Task = build.build_task(self.config.task)
        self.task.fit(splits["train"].table.labels(splits["train"].rows))
        self.model = build.build_model(self.config.model, self.task.width, seed=0)
        build.build_plan(self.config, self.model)
        self.data = build.build_data(self.config, splits, self.model, self.task)
        self.batch: Batch = next(iter(self.data.train_dataloader()))
        self.batch.weight = torch.linspace(0.1, 2.0, len(self.batch))
        self.batch.image_present[::5] = False
        self.batch.text_present[1::7] = False


def rows_of(batch: Batch, rows: list[int]) -> Batch:
    """The chosen rows of a batch, possibly none."""
    return batch.map_tensors(lambda t: t[rows])


def gradients(
    model: VisionLanguageModel, task: Task, batch: Batch, micro: int | None, ranks: bool
) -> dict[str, Tensor]:
    """The gradient of a logical batch: of this rank's share of it, or of the whole in this process."""
    model.zero_grad()
    rank, world = (distributed.get_rank(), distributed.get_world_size()) if ranks else (0, 1)
    share = rows_of(batch, list(range(len(batch)))[rank::world])
    weight = task.normalisers(share)
    accumulate(
        share,
        micro,
        summed(weight) if ranks else weight,
        lambda rows: task.loss_sums(model(rows), rows),
        Tensor.sum,
        lambda loss: loss.backward(),
        lambda _: None,
    )
    if ranks:
        sum_gradients(list(model.parameters()))
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def gradient_errors(case: Case) -> dict[str, float]:
    """The largest relative error of a tensor's gradient, by dtype, rows and micro-batch."""
    found = {}
    for dtype in (torch.float32, torch.float64):
        model = copy.deepcopy(case.model).to(dtype)
        for rows, micro in ((ROWS, None), (13, 3), (1, None)):
            batch = rows_of(case.batch, list(range(rows)))
            alone = gradients(model, case.task, batch, None, ranks=False)
            together = gradients(model, case.task, batch, micro, ranks=True)
            assert alone.keys() == together.keys(), set(alone) ^ set(together)
            total = float(torch.stack([g.norm() for g in alone.values()]).norm())
            errors = [
                float((together[name] - exact).norm()) / max(float(exact.norm()), 1e-6 * total)
                for name, exact in alone.items()
            ]
            found[f"{dtype} {rows} {micro}".removeprefix("torch.")] = max(errors)
    return found


def sharded_errors(case: Case) -> dict[str, dict[str, float]]:
    """How far an optimizer step of the sharded model is from one process's, by case.

    Rows and micro-batches that leave a rank without any; modalities that one rank's rows lack, or all rows; an empty
    logical batch; other fusions; frozen encoders, and such with LoRA.
    """
    small = ["model.fusion.width=32", "model.fusion.heads=2"]
    merged, cross = (Case([*case.overrides, f"model/fusion={name}", *small]) for name in ("merged", "cross"))
    frozen = Case([*case.overrides, "tune=head_only", "optim.lr=null"])
    added = Case([*case.overrides, "tune=lora"])
    one_rank = replace(case.batch, image_present=torch.arange(ROWS) % 2 == 0)  # the first rank's rows
    no_image = replace(case.batch, image_present=torch.zeros(ROWS, dtype=torch.bool), pixel_values=None)
    return {
        "whole": sharded_step(case, case.batch, None, gather=True),
        "micro-batches": sharded_step(case, rows_of(case.batch, list(range(13))), 3),
        "one row": sharded_step(case, rows_of(case.batch, [0]), None),
        "no row": sharded_step(case, rows_of(case.batch, []), None),
        "images of one rank": sharded_step(case, one_rank, 4),
        "no image": sharded_step(case, no_image, 5),
        "merged": sharded_step(merged, rows_of(one_rank, list(range(31))), 4),
        "cross": sharded_step(cross, rows_of(one_rank, list(range(31))), 4),
        "head only": sharded_step(frozen, case.batch, 5),
        "lora": sharded_step(added, case.batch, 5),
    }


def sharded_step(case: Case, batch: Batch, micro: int | None, gather: bool = False) -> dict[str, float]:
    """Names that have a gradient in one of both only; errors of the gradient, its norm, the weights after a step."""
    plain, model = copy.deepcopy(case.model), copy.deepcopy(case.model)
    if len(batch):
        plain.count_stand_ins()  # training does; a sharded model reads them
    counted = {name: p.grad for name, p in plain.named_parameters() if p.grad is not None}
    expected = counted | gradients(plain, case.task, batch, None, ranks=False)
    rank, world = distributed.get_rank(), distributed.get_world_size()
    share = rows_of(batch, list(range(len(batch)))[rank::world])
    shards = Shards(model, init_device_mesh("cpu", (world,)))
    accumulate(
        share,
        micro,
        summed(case.task.normalisers(share)),
        lambda rows: case.task.loss_sums(model(rows), rows),
        Tensor.sum,
        lambda loss: loss.backward(),
        lambda _: None,
        at_least=shards.agree(share, micro),
    )
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    total = float(torch.stack([g.norm() for g in expected.values()] or [torch.ones(1)]).norm())
    errors = {
        "other names": float(len(found.keys() ^ expected.keys())),
        "gradient": max((difference(found[name], g) for name, g in expected.items()), default=0.0) / total,
    }
    norms = [float(full(torch.nn.utils.clip_grad_norm_(m.parameters(), 0.5))) for m in (plain, model)]
    for m in (plain, model):
        torch.optim.SGD(m.parameters(), lr=0.5, fused=False).step()
    wanted = plain.state_dict()
    after = shards.whole().state_dict() if gather else model.state_dict()
    errors["weights"] = max(difference(value, wanted[name]) for name, value in after.items())
    return errors | {"norm": abs(norms[1] - norms[0]) / total}


def difference(shard: Any, whole: Tensor) -> float:
    """The largest difference of this rank's part of a tensor (or of a whole one) from the whole."""
    own = like(whole, shard)
    both = [t.to_local() if isinstance(t, DTensor) else t for t in (shard, own)]
    return float((both[0] - both[1]).abs().max()) if both[0].numel() else 0.0


class KnownLogits(torch.nn.Module):
    """Logits by row number: what is tested is the adding up, thousands of batches of it."""

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.register_buffer("logits", torch.randn(rows, width, generator=torch.Generator().manual_seed(0)))

    def forward(self, batch: Batch) -> Outputs:
        logits = self.get_buffer("logits")[batch.row]
        return Outputs(logits, logits, logits)


class SeveralCase:
    """Rows of another case for two tasks at once; many rows lack a label, and whole batches lack one task's."""

    def __init__(self, case: Case) -> None:
        names = case.task.state()["labels"]
        self.task = Several({"kind": Classification(names), "number": Regression()}, {"number": 0.5})
        labels = [
            {"kind": names[at % len(names)] if at % 4 else None, "number": None if at < 20 and at % 2 else at / 7}
            for at in range(ROWS)
        ]
        self.task.fit(labels)
        self.batch = replace(case.batch, target=torch.stack([self.task.encode(label) for label in labels]))


def evaluated(case: Any, batches: list[tuple[int, Batch]], rank: int, world: int) -> dict[str, float]:
    """The metrics of batches that come with their number on this rank."""
    model: Any = KnownLogits(1 + int(case.batch.row.max()), case.task.width)
    module = Evaluating(model, case.task)
    trainer: Any = SimpleNamespace(
        world_size=world, global_rank=rank, loggers=[], is_global_zero=rank == 0, global_step=0
    )
    module._trainer = trainer
    module.log_dict = lambda *_, **__: None  # type: ignore[method-assign]
    module._write = lambda _: None  # type: ignore[method-assign]
    module.on_validation_epoch_start()
    with torch.no_grad():
        for index, batch in batches:
            module.validation_step(batch, index)
    module.on_validation_epoch_end()
    return module.results["val"]


def evaluation_differences(case: Any, expected: dict[str, Any]) -> dict[str, float]:
    """The largest difference of a metric from one process's, by rows and batch size."""
    rank, world = distributed.get_rank(), distributed.get_world_size()
    found = {}
    for name, values in expected.items():
        rows, size = (int(part) for part in name.split())
        own = [(i, whole(case, list(part))) for i, part in enumerate(evaluation_batches(rows, size, rank, world))]
        together = evaluated(case, own, rank, world)
        same = [a == b or abs(a - b) for a, b in zip(together.values(), values.values(), strict=True)]
        found[name] = max(0.0 if s is True or s != s else float(s) for s in same)
        assert together.keys() == values.keys()
        assert all((a != a) == (b != b) for a, b in zip(together.values(), values.values(), strict=True))
    return found


def whole(case: Any, rows: list[int]) -> Batch:
    """Rows of the sample, which wrap around its first batch."""
    return rows_of(case.batch, [row % ROWS for row in rows])


def unused() -> dict[str, bool]:
    """Whether a parameter has a gradient: that no rank used, that one used, and the value of the latter."""
    parameters = [torch.nn.Parameter(torch.ones(3)) for _ in range(3)]
    if distributed.get_rank() == 1:
        parameters[1].grad = torch.full((3,), 2.0)
    parameters[2].grad = torch.full((3,), 1.0 + distributed.get_rank())
    sum_gradients(parameters)
    none, one, both = (p.grad for p in parameters)
    assert one is not None
    assert both is not None
    return {"none": none is None, "one": bool((one == 2).all()), "both": bool((both == 3).all())}


def agreed() -> list[list[bool]]:
    """What each rank takes, step by step, where only rank 1 wishes to stop, before the second step."""
    agreement = Agreement(alone=False)
    found = []
    for step in range(3):
        if step == 1 and distributed.get_rank() == 1:
            agreement.wish("terminate")
        counts = summed(agreement.as_tensor(torch.zeros(())))
        agreement.settle(counts.tolist())
        found.append([agreement.take("terminate"), agreement.take("save")])
    return found


def overflowed() -> list[float]:
    """Of steps in float16 in which no rank's gradient overflows, then rank 1's: whether to step, and the next scale."""
    scale, parameter = LossScale(), torch.nn.Parameter(torch.ones(3))
    found = []
    for last in (0, 1):
        parameter.grad = torch.full((3,), torch.inf if distributed.get_rank() == last == 1 else scale.value)
        sum_gradients([parameter])
        scale.unscale([parameter])
        found += [float(scale.update(parameter.grad.norm())), scale.value]
    return found


def statistics() -> list[float]:
    """The running mean of a BatchNorm that saw 0 on one rank and 2 on the other."""
    norm = torch.nn.BatchNorm1d(1, momentum=1.0)
    norm(torch.full((4, 1), 2.0 * distributed.get_rank()))
    average_statistics(norm)
    return [float(value) for value in norm.running_mean]


def tuned(case: Case, rank: int, world: int) -> dict[str, Any]:
    """What is tuned on rows that are dealt to ranks in batches; also where a rank has none."""
    found = {}
    for size in (5, ROWS):
        task = Classification(case.task.state()["labels"], calibration="temperature")
        task.fit(case.task.state()["labels"])
        batches = [rows_of(case.batch, list(part)) for part in evaluation_batches(ROWS, size, rank, world)]
        model, device = copy.deepcopy(case.model), torch.device("cpu")
        told = tune_on_validation(model, task, batches, device, "32-true")
        found[str(size)] = {"told": told, "temperature": task.state()["temperature"]}
    return found


def main() -> None:
    """One rank."""
    out, resnet, *overrides = sys.argv[1:]
    torch.set_num_threads(1)
    case = Case(overrides)
    # what one process says, before there are two
    expected = {
        f"{rows} {size}": evaluated(
            case, [(i, whole(case, list(part))) for i, part in enumerate(evaluation_batches(rows, size))], 0, 1
        )
        for rows in range(1, 38)
        for size in range(1, 9)
    }
    several = SeveralCase(case)
    of_several = {
        f"{rows} {size}": evaluated(
            several, [(i, whole(several, list(part))) for i, part in enumerate(evaluation_batches(rows, size))], 0, 1
        )
        for rows in (2, 9, 37)
        for size in (1, 4)
    }
    alone, tuned_alone = thawed_alone(overrides, Path(out)), tuned(case, 0, 1)
    join("gloo", timedelta(minutes=5))
    result = {
        "gradients": gradient_errors(case),
        "pairs": pair_errors(overrides),
        "aligned": aligned_errors(overrides),
        "evaluation": evaluation_differences(case, expected),
        "several": evaluation_differences(several, of_several),
        "unused": unused(),
        "agreed": agreed(),
        "overflowed": overflowed(),
        "statistics": statistics(),
        "gathered": gathered(distributed.get_rank()),
        "tuned": {"alone": tuned_alone, "together": tuned(case, distributed.get_rank(), 2)},
        "sharded": sharded_errors(case),
    }
    end_collectives(together=True)
    result["thawed"] = {"alone": alone, **thawed_together(overrides, Path(out), resnet)}
    (Path(out) / f"{os.environ['RANK']}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
