"""What comes with mmft itself: a path that begins with `mmft:` names a file or folder of `mmft/samples`.

So a run that used the shipped rows or encoders can be repeated on any machine that has mmft, wherever it is
installed there.
"""

from __future__ import annotations

import os
from pathlib import Path

PREFIX = "mmft:"
SAMPLES = Path(__file__).parent / "samples"


def located(typed: str | Path, base: Path | None = None) -> Path:
    """Where a typed path is: `mmft:NAME` in mmft's own samples, `~` in the home folder, all else from `base`.

    Args:
        typed: as in a config.
        base: what a relative path is relative to; None: the working directory, and the path stays relative.
    """
    if str(typed).startswith(PREFIX):
        return SAMPLES / str(typed).removeprefix(PREFIX)
    path = Path(os.path.expanduser(typed))  # noqa: PTH111 - Path's raises at `~nobody`; here that is just not there
    return path if base is None else base / path
