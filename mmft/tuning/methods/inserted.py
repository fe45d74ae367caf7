"""Methods that put modules of our own into an encoder; nothing but these is trained."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable

from torch import nn

from mmft.errors import UserError
from mmft.models.encoder import Encoder
from mmft.tuning.methods.base import TuningMethod


class Inserted(TuningMethod):
    """Base: modules with parameters are put into the encoder's blocks. Names of what was there stay as they are."""

    @abstractmethod
    def insert(self, encoder: Encoder) -> Iterable[nn.Module]:
        """Puts the modules in, as children of what is in the blocks; gives them.

        Raises:
            UserError: the encoder has no place for them.
        """

    def apply(self, encoder: Encoder) -> None:
        """Puts the modules in."""
        added = {id(module) for module in self.insert(encoder)}
        encoder.adapters = {name for name, module in encoder.named_modules() if id(module) in added}

    def trained(self, encoder: Encoder) -> set[str]:
        """The parameters of what was put in."""
        return {
            f"{name}.{own}" for name in encoder.adapters for own, _ in encoder.get_submodule(name).named_parameters()
        }

    def merge(self, encoder: Encoder) -> None:
        """There is nothing to merge it into.

        Raises:
            UserError: always.
        """
        raise self.error(
            "",
            f"{encoder.source.name} has no place for what {self.name} has added to it, so that it cannot be written as "
            "an encoder of its library. Use the run as it is: mmft predict run=RUN, or mmft.load(RUN) in Python",
        )

    def refusal(self, encoder: Encoder, why: str, *instead: str) -> UserError:
        """An error: the method does not fit the encoder; with what to type instead."""
        group = self.key.replace(".", "/")
        types = " or ".join(f"{group}={name}" for name in instead)
        return self.error("", f"{self.name} does not fit {encoder.source.name}: {why}. Type {types}")
