r"""Steps with `task.packing=true` against padded ones, on answers of mixed lengths, in turns, in one process.

    python tools/bench/packing.py [FOLDER] [--rows 16] [--rounds 5] [--micro 16]

FOLDER holds a causal language model with its tokenizer; without one, a random Llama of 4 layers and width 512 is made
(no tokenizer is needed: rows are drawn as tokens). Prompts have 8 to 24 tokens, answers 4 to 200, most of them short
(log-uniform). Forward and backward passes of all weights; both losses are printed, too. Seconds are of the
processor, so that what else the machine does counts little; type OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import time
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mmft.models.language.packing import plan_packing


def model_of(folder: str | None) -> Any:
    """A causal language model in float32."""
    import transformers

    if folder is not None:
        return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    sizes: Any = {"hidden_size": 512, "num_hidden_layers": 4, "num_attention_heads": 8, "intermediate_size": 1536}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=8192, **sizes))


def hidden(model: Any, embedded: Tensor, mask: Tensor, packed: bool) -> Tensor:
    """(B, L, D) last hidden states, as `LanguageModel.hidden` computes them."""
    if not packed:
        found: Tensor = model.base_model(
            inputs_embeds=embedded, attention_mask=mask.long(), use_cache=False
        ).last_hidden_state
        return found
    packing = plan_packing(mask, model.config.max_position_embeddings)
    out = model.base_model(
        inputs_embeds=packing.pack(embedded), position_ids=packing.positions, use_cache=False
    ).last_hidden_state
    return packing.unpack(out, like=embedded)


def main() -> None:
    """Prints the medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--micro", type=int, default=16, help="rows of a micro-batch")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.manual_seed(0)
    model = model_of(args.folder).train()
    draw = random.Random(0)
    lengths = [
        draw.randint(8, 24) + round(math.exp(draw.uniform(math.log(4), math.log(200)))) for _ in range(args.rows)
    ]
    rows = [torch.randint(0, 4096, (length,)) for length in lengths]
    seconds: dict[bool, list[float]] = {False: [], True: []}
    losses = {}
    for _ in range(args.rounds + 1):
        for packed in (False, True):
            began = time.process_time()
            model.zero_grad()
            total = 0.0
            for first in range(0, len(rows), args.micro):
                ids = pad_sequence(rows[first : first + args.micro], batch_first=True, padding_value=-1)
                mask = ids >= 0
                states = hidden(model, model.get_input_embeddings()(ids.clamp_min(0)), mask, packed)
                loss = states[mask].float().square().mean()
                loss.backward()
                total += float(loss.detach())
            seconds[packed].append(time.process_time() - began)
            losses[packed] = total
    padded, packed_one = (statistics.median(seconds[way][1:]) for way in (False, True))
    tokens = sum(lengths)
    print(f"{len(rows)} rows of {min(lengths)} to {max(lengths)} tokens, {tokens} together")
    print(f"padded {padded:.2f} s, packed {packed_one:.2f} s: {padded / packed_one:.2f} x as fast")
    print(f"both compute the same: {losses[False]:.6f} {losses[True]:.6f}")


if __name__ == "__main__":
    main()
