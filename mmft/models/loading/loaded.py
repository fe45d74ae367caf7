"""Checks what transformers tells about loading a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmft.errors import UserError


def check_shapes(told: Mapping[str, Any], where: str) -> None:
    """Checks that weights have the shapes that the config says.

    Args:
        told: the `output_loading_info` of a model loaded with `ignore_mismatched_sizes=True`.
        where: key and name of the model.

    Raises:
        UserError: a weight of the files has another shape than the config says, and would be random.
    """
    wrong = sorted(told.get("mismatched_keys", ()))
    if wrong:
        name, *shapes = wrong[0]
        there, wanted = (" x ".join(map(str, shape)) for shape in shapes)
        raise UserError(
            f"{where}: the shapes of {len(wrong)} weights in its files are not those of its config.json, first {name}: "
            f"{there} in place of {wanted}."
        )


def check_weights(told: Mapping[str, Any], where: str) -> None:
    """As `check_shapes`; also that no weight is missing."""
    check_shapes(told, where)
    if missing := sorted(told["missing_keys"]):
        raise UserError(f"{where}: {len(missing)} weights are not in its files, first {missing[0]}.")
