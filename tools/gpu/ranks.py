"""Two ranks on the one device, over gloo (NCCL refuses two ranks on one GPU): a step is that of one process.

`python -m gpu.ranks SETTING` is one of them.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta

from torch import Tensor, distributed

from gpu.caching import pairs
from gpu.setting import Made, Setting, made
from mmft.batch import Batch
from mmft.training.parallel.collectives import end_collectives
from mmft.training.parallel.rendezvous import join

MAKE: dict[str, Callable[..., list[str]]] = {"classification": Setting.overrides, "contrastive": pairs}


def measure(setting: Setting) -> None:
    """Rows for each task, which the first rank writes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    setting.shapes  # noqa: B018 - made before there are two who would
    shared = os.environ | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "LOCAL_RANK": "0"}
    command = [sys.executable, "-m", "gpu.ranks", json.dumps(dataclasses.asdict(setting))]
    both = [subprocess.Popen(command, env=shared | {"RANK": str(rank)}) for rank in range(2)]
    codes = [process.wait() for process in both]
    if codes != [0, 0]:
        raise RuntimeError(f"the ranks ended with {codes}")


def _step(things: Made, batch: Batch, setting: Setting) -> tuple[dict[str, Tensor], float]:
    """The weights after one optimizer step, and the gradient's norm."""
    module = copy.deepcopy(things.module)
    module.model.to(setting.place).train()
    _, norm, _ = module.update(batch.to(setting.place), module.configure_optimizers(), 0, Tensor.backward)
    return {name: p.detach().cpu() for name, p in module.model.named_parameters()}, float(norm)


def _rank(setting: Setting) -> None:
    """One rank: what one process computes, before there are two, and then its share."""
    cases = {}
    for name, overrides in MAKE.items():
        exact = ["model.dropout=0", "optim=sgd", "optim.lr=0.1", "optim.head_lr=0.1", "trainer.precision=32-true"]
        things = made(overrides(setting, *exact, batch=16 if setting.smallest else 64))
        cases[name] = (things, *_step(things, things.batch, setting))
    join("gloo", timedelta(seconds=20))
    rank = distributed.get_rank()
    for name, (things, exact_weights, exact_norm) in cases.items():
        with setting.guarded(f"{name}: two ranks on one device"):
            weights, norm = _step(things, things.batch.map_tensors(lambda t: t[rank::2]), setting)
            off = max(float((weights[key] - value).abs().max()) for key, value in exact_weights.items())
            if rank == 0:
                text = f"{name}: two ranks on one device"
                setting.note(f"{text}, largest difference of a weight from one process's", off, good=off < 1e-4)
                setting.note(f"{text}, gradient norm; reference: one process", norm, exact_norm, norm / exact_norm)
    end_collectives(together=True)


if __name__ == "__main__":
    _rank(Setting(**json.loads(sys.argv[1])))
    sys.stdout.flush()
    os._exit(0)  # as mmft.launch.rank ends a rank: the interpreter would take seconds to take its store down
