"""Methods that insert our own modules into an encoder and train only these."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable

import torch
from torch import nn

from mmft.errors import UserError
from mmft.models.encoder import Encoder
from mmft.models.language.language_model import LanguageModel
from mmft.models.layers import evaluated
from mmft.tuning.methods.base import TuningMethod


class Inserted(TuningMethod):
    """Base: inserts trainable modules into the encoder's blocks. Names of existing modules do not change."""

    trains_layers = False

    @abstractmethod
    def insert(self, encoder: Encoder) -> Iterable[nn.Module]:
        """Inserts the modules as children of modules in the blocks, and returns them.

        Raises:
            UserError: the method does not fit the encoder.
        """

    def apply(self, encoder: Encoder) -> None:
        """Inserts the modules and registers them as the encoder's adapters."""
        added = {id(module) for module in self.insert(encoder)}
        encoder.adapters = {name for name, module in encoder.named_modules() if id(module) in added}

    def trained(self, encoder: Encoder) -> set[str]:
        """The parameters of the inserted modules."""
        return {
            f"{name}.{own}" for name in encoder.adapters for own, _ in encoder.get_submodule(name).named_parameters()
        }

    def merge(self, encoder: Encoder) -> None:
        """Not possible: the encoder's architecture has no equivalent weights.

        Raises:
            UserError: always.
        """
        raise self.error(
            "",
            f"{encoder.source.name} has no weights to merge {self.name} into, so it cannot be written as an encoder "
            "of its library. Use the run itself: mmft predict run=RUN, or mmft.load(RUN) in Python",
        )

    def refusal(self, encoder: Encoder, why: str, *instead: str) -> UserError:
        """The error that the method does not fit the encoder, with alternatives to type."""
        group = self.key.replace(".", "/")
        types = " or ".join(f"{group}={name}" for name in instead)
        return self.error("", f"{self.name} does not fit {encoder.source.name}: {why}. Type {types}")


@torch.no_grad()
def check_cache(method: Inserted, encoder: Encoder) -> None:
    """Checks that a language model reads a text as well token after token, from its cache, as at once.

    Raises:
        UserError: it does not, with what was inserted.
    """
    if not isinstance(encoder, LanguageModel):
        return
    reader = encoder.reader(encoder.backbone)
    ids = torch.arange(4, device=next(encoder.parameters()).device).unsqueeze(0)  # (1, 4)
    with evaluated(encoder):
        wanted = reader(input_ids=ids, use_cache=False).last_hidden_state  # (1, 4, D)
        cache, found = None, []
        for token in ids.split(1, dim=1):
            out = reader(input_ids=token, cache=cache, use_cache=True)
            cache = out.cache
            found.append(out.last_hidden_state)
    if not torch.allclose(torch.cat(found, dim=1), wanted, rtol=1e-3, atol=1e-4):
        raise method.refusal(encoder, "it would generate other texts with its cache than without", "lora")
