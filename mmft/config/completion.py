"""Tab completion: `eval "$(mmft -sc install=bash)"`. Hydra's scripts know nothing of sub-commands."""

# ruff: noqa: T201 - the shell reads what is printed
from __future__ import annotations

import os
from collections.abc import Sequence

from mmft.errors import ExitCode

LINE = "COMP_LINE"  # the line so far, as the shell's script passes it on


def complete(words: Sequence[str], commands: Sequence[str]) -> int:
    """Answers `mmft -sc install=SHELL`, `uninstall=SHELL` and `query=SHELL`."""
    command, line = "train", os.environ.get(LINE, "")
    if words and words[0].startswith("query="):
        before = line.split()
        if len(before) < 2 or (len(before) == 2 and not line.endswith(" ")):
            print(" ".join(c for c in commands if c.startswith(before[1] if len(before) == 2 else "")))
            return ExitCode.DONE
        if before[1] not in commands:
            return ExitCode.DONE
        command = before[1]
        os.environ[LINE] = line.replace(f" {command}", "", 1)
    from mmft.config.launch import Session

    with Session(command, []) as session:
        session.completion(list(words))
    return ExitCode.DONE
