"""Rate of generation: `language.generating.generate` of mmft against transformers' own, from the same prompts.

    python tools/bench/generation_rate.py FOLDER [--rows 64] [--tokens 32] [--batch 16] [--turns 3] [--sampled]

FOLDER has a causal language model. Prompts are texts behind 16 random image tokens. Seconds are of the processor, in
turns in one process. Texts are greedy; with `--sampled` they are drawn with a temperature, top p and a stop text that
none of them has, of which transformers is given all but the stop text.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mmft.config.schema.decoding import DecodingConfig
from mmft.models.language.decoding import Decoding
from mmft.models.language.generating import generate, padded_on_the_left
from mmft.models.language.language_model import LanguageModel, build_language_model

IMAGE_TOKENS = 16


def prompts(model: LanguageModel, rows: int) -> tuple[Tensor, Tensor]:
    """(B, S, D) embeddings, padded on the right, and their mask (B, S)."""
    plain: Any = model.tokenizer.plain
    ids = [plain(f"Write a long story about {10 ** (row % 9)} cats.")["input_ids"] for row in range(rows)]
    longest = max(map(len, ids))
    padded = torch.tensor([own + [0] * (longest - len(own)) for own in ids])
    there = torch.tensor([[True] * len(own) + [False] * (longest - len(own)) for own in ids])
    image = torch.randn(rows, IMAGE_TOKENS, model.widths.tokens) / 10
    mask = torch.cat([torch.ones(rows, IMAGE_TOKENS, dtype=torch.bool), there], dim=1)
    return torch.cat([image, model.embed(padded)], dim=1), mask


@torch.no_grad()
def main() -> None:
    """Prints the seconds of both and the ratio of their rates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    for name, default in (("rows", 64), ("tokens", 32), ("batch", 16), ("turns", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--sampled", action="store_true")
    given = parser.parse_args()
    torch.manual_seed(0)
    model = build_language_model(given.folder, None, "auto", True)
    backbone: Any = model.eval().backbone
    embedded, mask = prompts(model, given.rows)
    drawn: dict[str, Any] = {"temperature": 0.8, "top_p": 0.9} if given.sampled else {}
    stop = ["no such text"] if given.sampled else []
    decoding = Decoding(DecodingConfig(max_new_tokens=given.tokens, stop=stop, **drawn))
    end = model.tokenizer.eos_token_id

    def ours(at: slice) -> Tensor:
        rows = torch.arange(given.rows)[at]
        return generate(model, {"inputs_embeds": embedded[at]}, mask[at], decoding, rows).tokens

    def plain(at: slice) -> Tensor:
        inputs, real = padded_on_the_left({"inputs_embeds": embedded[at]}, mask[at])
        options = {"max_new_tokens": given.tokens, "do_sample": given.sampled, "eos_token_id": end, "pad_token_id": end}
        options |= {"top_k": 0} if given.sampled else {}  # transformers' default is 50
        found: Tensor = backbone.generate(**inputs, attention_mask=real.long(), **options, **drawn)
        return found

    def seconds(way: Callable[[slice], Tensor]) -> float:
        started = time.process_time()
        for first in range(0, given.rows, given.batch):
            way(slice(first, first + given.batch))
        return time.process_time() - started

    if not given.sampled:
        assert torch.equal(ours(slice(0, 1))[0], plain(slice(0, 1))[0])
    turns = [(seconds(plain), seconds(ours)) for _ in range(given.turns)]
    plain_s, own_s = (statistics.median(every) for every in zip(*turns, strict=True))
    print(f"transformers {plain_s:.2f} s, mmft {own_s:.2f} s")
    print(f"ratio of rates {statistics.median(one / other for one, other in turns):.3f}")


if __name__ == "__main__":
    main()
