"""`hydra/sweeper` and `hydra/launcher`: which runs `mmft train -m` makes, and where they run.

No part of a run's config: a trial is the same run, whoever asked for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mmft.config.fields import field
from mmft.config.registry import OptionConfig, option


@dataclass(kw_only=True)
class SweeperConfig(OptionConfig):
    """`hydra/sweeper`: which values are tried."""


@option("hydra/sweeper", "basic")
@dataclass(kw_only=True)
class BasicSweeperConfig(SweeperConfig):
    """Every combination of the values that are typed."""


@option("hydra/sweeper", "optuna")
@dataclass(kw_only=True)
class OptunaSweeperConfig(SweeperConfig):
    """A search: each trial is drawn from what the trials before it gave, by `checkpoint.monitor` on val."""

    n_trials: int = field(20, ge=1)
    """Trials in all, those of an earlier start with the same `hydra.sweep.dir` included, whatever came of them."""
    sampler: Literal["tpe", "gp", "random"] = "tpe"
    """`tpe` and `gp` (a Gaussian process, for few trials) learn from the trials before, `random` does not."""
    n_startup_trials: int = field(10, ge=0)
    """Trials that are drawn at random before `tpe` or `gp` begins to learn."""
    seed: int = field(0, ge=0, lt=2**31)
    """Seed of the search; the runs' own is `seed`."""
    pruner: Literal["none", "median", "hyperband"] = "none"
    """What ends a trial early, after a validation: `median`, being worse than the median of the trials before at that
    epoch; `hyperband`, not being among the best third of its bracket."""
    pruner_startup_trials: int = field(5, ge=0)
    """`median`: trials that must be through before one is ended."""
    pruner_warmup_epochs: int = field(0, ge=0)
    """`median`: epochs that every trial is given; `hyperband`: one more than these is the least."""


@dataclass(kw_only=True)
class LauncherConfig(OptionConfig):
    """`hydra/launcher`: where the runs of a sweep run."""


@option("hydra/launcher", "basic")
@dataclass(kw_only=True)
class BasicLauncherConfig(LauncherConfig):
    """In this process, one after the other."""


@option("hydra/launcher", "joblib")
@dataclass(kw_only=True)
class JoblibLauncherConfig(LauncherConfig):
    """In processes of this machine, side by side."""

    n_jobs: int = field(2, ge=-1)
    """Runs at the same time; -1: one for each processor core. They share the memory, and a GPU if there is one."""


@dataclass(kw_only=True)
class SubmititConfig(LauncherConfig):
    """What both submitit launchers have."""

    n_jobs: int = field(1, ge=1)
    """Runs that are submitted at the same time."""
    timeout_min: int = field(60, ge=1)
    """Minutes that a run may take."""
    gpus_per_node: int | None = field(None, ge=0)
    """GPUs of a run, of which it uses `trainer.devices`; null: what the cluster gives, or all of this machine."""
    name: str = "mmft"
    """Name of the jobs."""
    max_num_timeout: int = field(0, ge=0)
    """How often a run that takes too long is submitted again; it goes on from its last checkpoint."""
    setup: list[str] | None = None
    """Shell commands before the run, for example `['module load cuda']`."""


@option("hydra/launcher", "submitit_local")
@dataclass(kw_only=True)
class SubmititLocalConfig(SubmititConfig):
    """submitit on this machine: each run in a process of its own, with a time limit."""


@option("hydra/launcher", "submitit_slurm")
@dataclass(kw_only=True)
class SubmititSlurmConfig(SubmititConfig):
    """submitit on a SLURM cluster: each run a job of one task on one node."""

    n_jobs: int = field(8, ge=1)
    """Runs that are in the queue at the same time."""
    cpus_per_task: int | None = field(None, ge=1)
    """Processor cores of a run."""
    mem_gb: float | None = field(None, gt=0)
    """Memory of a run."""
    signal_delay_s: int = field(120, ge=1)
    """Seconds before the end of the time at which a run is told, so that it can be submitted again."""
    partition: str | None = None
    """`sbatch --partition`."""
    account: str | None = None
    """`sbatch --account`."""
    qos: str | None = None
    """`sbatch --qos`."""
    constraint: str | None = None
    """`sbatch --constraint`."""
    exclude: str | None = None
    """`sbatch --exclude`: nodes that are not to be used."""
    comment: str | None = None
    """`sbatch --comment`."""
    gres: str | None = None
    """`sbatch --gres`, where `gpus_per_node` is not enough."""
    cpus_per_gpu: int | None = field(None, ge=1)
    """`sbatch --cpus-per-gpu`."""
    mem_per_gpu: str | None = None
    """`sbatch --mem-per-gpu`, for example `40G`."""
    mem_per_cpu: str | None = None
    """`sbatch --mem-per-cpu`."""
    additional_parameters: dict[str, str] | None = None
    """Any other option of sbatch, for example `{mail-type: END}`."""


@dataclass(kw_only=True)
class HydraConfig:
    """`hydra`, as far as it is to be chosen."""

    sweeper: SweeperConfig
    """Which values are tried."""
    launcher: LauncherConfig
    """Where the runs run."""


@dataclass(kw_only=True)
class MultirunConfig:
    """Everything that `mmft train -m` reads besides the runs' own config."""

    hydra: HydraConfig
    """Sweeper and launcher."""
