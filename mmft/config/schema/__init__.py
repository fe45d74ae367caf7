"""The schemas of every config group, one file per group; `COMMANDS` has the root of each command.

To add an option, write its dataclass into the group's file with `@option(group, name, builds=...)`: its choice, help
and completion follow from that. Options of installed packages are here as well (`mmft.config.plugins`).
"""

from mmft.config.plugins import installed
from mmft.config.schema.root import (
    CheckConfig,
    DoctorConfig,
    EmbedConfig,
    ExplainConfig,
    ExportConfig,
    PredictConfig,
    RunsConfig,
    TestConfig,
    TrainConfig,
    UseConfig,
)

COMMANDS: dict[str, type] = {
    "train": TrainConfig,
    "check": CheckConfig,
    "test": TestConfig,
    "predict": PredictConfig,
    "embed": EmbedConfig,
    "explain": ExplainConfig,
    "export": ExportConfig,
    "runs": RunsConfig,
    "doctor": DoctorConfig,
}


installed()  # plugins of packages; they find everything above


def trains(command: str) -> bool:
    """Whether a command's config is that of a training run."""
    return issubclass(COMMANDS[command], TrainConfig)


__all__ = [
    "COMMANDS",
    "CheckConfig",
    "DoctorConfig",
    "EmbedConfig",
    "ExplainConfig",
    "ExportConfig",
    "PredictConfig",
    "RunsConfig",
    "TestConfig",
    "TrainConfig",
    "UseConfig",
    "trains",
]
