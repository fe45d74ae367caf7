"""The run folder: what a run writes where, and how to find a run again. Imports nothing heavy."""

from mmft.run_folder.finding import (
    all_runs,
    find_run,
    init_folder,
    is_sweep,
    model_folder,
    newest,
    newest_unfinished,
    short_name,
)
from mmft.run_folder.folder import LOCK, STATE, STUDY, SWEEP, RunFolder, as_when_saved

__all__ = [
    "LOCK",
    "STATE",
    "STUDY",
    "SWEEP",
    "RunFolder",
    "all_runs",
    "as_when_saved",
    "find_run",
    "init_folder",
    "is_sweep",
    "model_folder",
    "newest",
    "newest_unfinished",
    "short_name",
]
