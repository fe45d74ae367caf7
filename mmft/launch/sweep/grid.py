"""`hydra/sweeper=basic`: every combination of the typed values."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from mmft.config.compose import Composed
from mmft.errors import UserError
from mmft.launch.sweep.job import Job, Result


class Grid:
    """Every combination; the last key varies fastest.

    Args:
        composed: the sweep's config.
        config_dirs: the user's folders of YAML files.
        folder: the sweep's.

    Raises:
        UserError: a value is typed twice.
    """

    def __init__(self, composed: Composed, config_dirs: Sequence[Path], folder: Path) -> None:
        self.config_dirs, self.folder = config_dirs, folder
        texts = {typed.key: typed.texts for typed in composed.parsed}  # the last one counts if a key is typed twice
        for key, values in texts.items():
            for text, times in Counter(values).items():
                if times > 1:
                    value = text.partition("=")[2]
                    raise UserError(f"{key}: {value} is given twice, and would be the same run again. Leave one out")
        self._jobs = self._make(itertools.product(*texts.values()))

    def _make(self, combinations: Iterator[tuple[str, ...]]) -> Iterator[Job]:
        for number, overrides in enumerate(combinations):
            yield Job(number, overrides, self.config_dirs, self.folder / str(number))

    def ask(self) -> Job | None:
        """The next combination."""
        return next(self._jobs, None)

    def tell(self, result: Result) -> None:
        """Does nothing: the next combination does not depend on results."""
