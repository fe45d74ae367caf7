"""Checks of `data.augment`: that what is asked for is there to be changed, and that the task can learn from it."""

from __future__ import annotations

from mmft.config.checks import check_train
from mmft.config.schema import TrainConfig
from mmft.config.schema.augment import AugmentConfig
from mmft.config.schema.data import names_of
from mmft.config.wording import listed


def _asked(augment: AugmentConfig, names: tuple[str, ...]) -> list[str]:
    """Which of these keys ask for something."""
    return [f"data.augment.{name}" for name in names if getattr(augment, name) not in (None, 0, "none")]


def _nothing_to_change(asked: list[str], modality: str) -> str | None:
    if not asked:
        return None
    verb = "changes" if len(asked) == 1 else "change"
    return (
        f"{listed(asked)} {verb} nothing, because data.columns.{modality} is null. "
        f"Leave {'it' if len(asked) == 1 else 'them'} out{', or type data/augment=none' * (modality == 'image')}"
    )


@check_train("data.augment", "data.columns.image")
def pictures_are_there(c: TrainConfig) -> str | None:
    """There are pictures to change."""
    if c.data.columns.image is not None:
        return None
    return _nothing_to_change(_asked(c.data.augment, AugmentConfig.OF_PICTURES), "image")


@check_train("data.augment", "data.columns.text")
def texts_are_there(c: TrainConfig) -> str | None:
    """There are texts to change."""
    if names_of(c.data.columns.text):
        return None
    return _nothing_to_change(_asked(c.data.augment, AugmentConfig.OF_TEXTS), "text")


@check_train("data.augment.policy", "data.augment.rand_augment_ops", "data.augment.rand_augment_magnitude")
def policy_has_settings(c: TrainConfig) -> str | None:
    """What RandAugment is told, is told while it is the policy."""
    augment = c.data.augment
    names = ("rand_augment_ops", "rand_augment_magnitude")
    given = [f"data.augment.{name}" for name in names if getattr(augment, name) is not None]
    if not given or augment.policy == "rand_augment":
        return None
    verb = "changes" if len(given) == 1 else "change"
    return f"{augment.policy}: {listed(given)} {verb} nothing with it. Type data.augment.policy=rand_augment"


@check_train("data.augment", "task")
def task_can_be_mixed(c: TrainConfig) -> str | None:
    """Two rows' targets can be mixed, and the loss does not go by how right a row is, which a mixed one never is."""
    asked = _asked(c.data.augment, ("mixup", "cutmix"))
    if not asked:
        return None
    if not c.task.mixes:
        return (
            f"{listed(asked)}: targets can be mixed where each row has one class (task=classification), "
            f"not with task={c.task.type}. Leave {'it' if len(asked) == 1 else 'them'} out"
        )
    if getattr(c.task, "loss", "") == "focal":
        return f"{listed(asked)}: does not go with task.loss=focal, which weighs rows by how right they are. Choose one"
    return None
