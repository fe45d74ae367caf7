"""The schemas of every config group, one file per group; `COMMANDS` has the root of each command.

To add an option: write its dataclass into the group's file with `@option(group, name, builds=...)`, and
`conf/<group>/<name>.yaml` that extends it.
"""

from mmft.config.schema.root import DoctorConfig, PredictConfig, RunsConfig, TestConfig, TrainConfig

COMMANDS: dict[str, type] = {
    "train": TrainConfig,
    "test": TestConfig,
    "predict": PredictConfig,
    "runs": RunsConfig,
    "doctor": DoctorConfig,
}

__all__ = ["COMMANDS", "DoctorConfig", "PredictConfig", "RunsConfig", "TestConfig", "TrainConfig"]
