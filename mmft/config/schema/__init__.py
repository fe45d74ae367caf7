"""The schemas of every config group, one file per group; `COMMANDS` maps each command to its root.

To add an option, write its dataclass into the group's file with `@option(group, name, builds=...)`: its choice, help
and completion follow from that. Importing this package also registers installed plugins (`mmft.config.plugins`).
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


installed()  # last, so that plugins find everything above


def trains(command: str) -> bool:
    """Whether a command's config describes a training run."""
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
