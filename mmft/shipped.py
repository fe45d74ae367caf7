"""Files shipped with mmft: a path that begins with `mmft:` names a file or folder of `mmft/samples`.

So a run on the shipped rows or encoders can be repeated on any machine with mmft installed.
"""

from __future__ import annotations

import os
from pathlib import Path

PREFIX = "mmft:"
SAMPLES = Path(__file__).parent / "samples"


def located(typed: str | Path, base: Path | None = None) -> Path:
    """Resolves a path: `mmft:NAME` in mmft's own samples, `~` in the home folder, anything else relative to `base`.

    Args:
        typed: as in a config.
        base: base of a relative path; None keeps it relative to the working directory.
    """
    if str(typed).startswith(PREFIX):
        return SAMPLES / str(typed).removeprefix(PREFIX)
    path = Path(os.path.expanduser(typed))  # noqa: PTH111 - Path's raises at `~nobody`; this leaves it as it is
    return path if base is None else base / path
