"""Makes the paths of a config absolute for use; the config itself keeps them as typed."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from mmft.shipped import located

_FILES = ("path", "train", "val", "test", "root")


def rebase(config: Any, base: Path) -> Any:
    """A copy of a `TrainConfig` with relative paths resolved against `base`.

    An encoder's name is a path if that folder exists; otherwise it is a hub name and stays unchanged.
    """
    absolute = copy.deepcopy(config)
    for name in _FILES:
        value = getattr(absolute.data, name)
        if value is not None:
            setattr(absolute.data, name, str(located(value, base)))
    for encoder in (absolute.model.image_encoder, absolute.model.text_encoder):
        if (folder := located(encoder.name, base)).is_dir():
            encoder.name = str(folder)
    absolute.paths.runs = str(located(absolute.paths.runs, base))
    if absolute.init is not None and absolute.init != "last":
        absolute.init = str(located(absolute.init, base))
    return absolute
