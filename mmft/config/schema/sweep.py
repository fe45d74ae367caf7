"""`hydra/sweeper` and `hydra/launcher`: which runs `mmft train -m` starts, and where.

They are not part of a run's config, so a trial is the same as a run started by hand.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mmft.config.fields import field
from mmft.config.registry import OptionConfig, option

GROUPS = ("hydra/sweeper", "hydra/launcher")
"""The groups that are valid with -m only."""


@dataclass(kw_only=True)
class SweeperConfig(OptionConfig):
    """`hydra/sweeper`: how the values of a sweep are chosen."""


@option("hydra/sweeper", "basic")
@dataclass(kw_only=True)
class BasicSweeperConfig(SweeperConfig):
    """Grid: every combination of the listed values."""


@option("hydra/sweeper", "optuna")
@dataclass(kw_only=True)
class OptunaSweeperConfig(SweeperConfig):
    """Search: each trial is sampled from the results of earlier trials, by `checkpoint.monitor` on the val split."""

    n_trials: int = field(20, ge=1)
    """Total number of trials, including all from an earlier start with the same `hydra.sweep.dir`, even failed ones."""
    sampler: Literal["tpe", "gp", "random"] = "tpe"
    """`tpe` and `gp` (a Gaussian process, for few trials) learn from earlier trials; `random` does not."""
    n_startup_trials: int = field(10, ge=0)
    """Random trials before `tpe` or `gp` starts learning."""
    seed: int = field(0, ge=0, lt=2**31)
    """Seed of the search; the seed of the runs is `seed`."""
    pruner: Literal["none", "median", "hyperband"] = "none"
    """Stop trials early, after a validation: `median`, if worse than the median of earlier trials at that epoch;
    `hyperband`, if not among the best third of its bracket."""
    pruner_startup_trials: int = field(5, ge=0)
    """`median`: trials that must finish before any is pruned."""
    pruner_warmup_epochs: int = field(0, ge=0)
    """`median`: epochs that every trial runs at least; `hyperband`: every trial runs at least one more than these."""


@dataclass(kw_only=True)
class LauncherConfig(OptionConfig):
    """`hydra/launcher`: where the runs of a sweep are executed."""


@option("hydra/launcher", "basic")
@dataclass(kw_only=True)
class BasicLauncherConfig(LauncherConfig):
    """In this process, one after the other."""


@option("hydra/launcher", "joblib")
@dataclass(kw_only=True)
class JoblibLauncherConfig(LauncherConfig):
    """In parallel processes on this machine."""

    n_jobs: int = field(2, ge=-1)
    """Parallel runs; -1: one per CPU core. They share memory, and the GPU if there is one."""


@dataclass(kw_only=True)
class SubmititConfig(LauncherConfig):
    """The keys of both submitit launchers."""

    n_jobs: int = field(1, ge=1)
    """Runs submitted at the same time."""
    timeout_min: int = field(60, ge=1)
    """Time limit of a run in minutes."""
    gpus_per_node: int | None = field(None, ge=0)
    """GPUs per run, of which it uses `trainer.devices`; null: the cluster's default, or all GPUs of this machine."""
    name: str = "mmft"
    """Name of the jobs."""
    max_num_timeout: int = field(0, ge=0)
    """How often a run that exceeds its time limit is resubmitted; it resumes from its last checkpoint."""
    setup: list[str] | None = None
    """Shell commands to execute before the run, for example `['module load cuda']`."""


@option("hydra/launcher", "submitit_local")
@dataclass(kw_only=True)
class SubmititLocalConfig(SubmititConfig):
    """submitit on this machine: each run in its own process, with a time limit."""


@option("hydra/launcher", "submitit_slurm")
@dataclass(kw_only=True)
class SubmititSlurmConfig(SubmititConfig):
    """submitit on a SLURM cluster: each run is a job with one task on one node."""

    n_jobs: int = field(8, ge=1)
    """Runs in the queue at the same time."""
    cpus_per_task: int | None = field(None, ge=1)
    """CPU cores per run."""
    mem_gb: float | None = field(None, gt=0)
    """Memory per run in GB."""
    signal_delay_s: int = field(120, ge=1)
    """Seconds before the time limit at which a run is signalled, so that it can be resubmitted."""
    partition: str | None = None
    """`sbatch --partition`."""
    account: str | None = None
    """`sbatch --account`."""
    qos: str | None = None
    """`sbatch --qos`."""
    constraint: str | None = None
    """`sbatch --constraint`."""
    exclude: str | None = None
    """`sbatch --exclude`: nodes to avoid."""
    comment: str | None = None
    """`sbatch --comment`."""
    gres: str | None = None
    """`sbatch --gres`, if `gpus_per_node` is not specific enough."""
    cpus_per_gpu: int | None = field(None, ge=1)
    """`sbatch --cpus-per-gpu`."""
    mem_per_gpu: str | None = None
    """`sbatch --mem-per-gpu`, for example `40G`."""
    mem_per_cpu: str | None = None
    """`sbatch --mem-per-cpu`."""
    additional_parameters: dict[str, str] | None = None
    """Any other sbatch option, for example `{mail-type: END}`."""


@dataclass(kw_only=True)
class SweepConfig:
    """The part of `hydra` that users can set."""

    sweeper: SweeperConfig
    """How values are chosen."""
    launcher: LauncherConfig
    """Where runs are executed."""


@dataclass(kw_only=True)
class MultirunConfig:
    """Everything that `mmft train -m` reads besides the config of its runs."""

    hydra: SweepConfig
    """Sweeper and launcher."""
