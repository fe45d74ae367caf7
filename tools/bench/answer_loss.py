"""Peak memory, time and value of the loss over answer tokens: `answer_log_probs` against full logits.

    python tools/bench/answer_loss.py [--vocabulary 150000] [--tokens 2048] [--width 576] [--rounds 3]

Forward and backward passes in float32, with a head that learns and with a frozen one. Each line is a process of its
own. Memory is what resident memory peaked above what hidden states, head and imports take, and above the gradients of
hidden states and head, which any loss returns.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

WAYS = ("full logits", "in chunks")


def measured(way: str, frozen: bool, vocabulary: int, tokens: int, width: int, rounds: int) -> dict[str, Any]:
    """The figures of one line, of this process."""
    import torch
    from torch.nn import functional

    from mmft.models.language.answer_loss import answer_log_probs

    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, width, generator=generator).requires_grad_()
    weight = torch.randn(vocabulary, width, generator=generator).div_(width**0.5).requires_grad_(not frozen)
    targets = torch.randint(vocabulary, (tokens,), generator=generator)

    def passed(rows: int) -> float:
        hidden.grad = weight.grad = None
        if way == "full logits":
            loss = functional.cross_entropy(functional.linear(hidden[:rows], weight), targets[:rows])
        else:
            loss = -answer_log_probs(hidden[:rows], weight, None, targets[:rows]).mean()
        loss.backward()
        return loss.item()

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        loss = passed(tokens)
        seconds.append(time.perf_counter() - began)
    gradients = sum(part.grad.nbytes for part in (hidden, weight) if part.grad is not None)
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10 - gradients / 2**20
    return {"mib": peak, "seconds": statistics.median(seconds), "loss": loss}


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = {"vocabulary": 150_000, "tokens": 2048, "width": 576, "rounds": 3}
    for name, size in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=size)
    parser.add_argument("--line", nargs=2, metavar=("WAY", "HEAD"), help="the figures of one line as JSON")
    args = parser.parse_args()
    asked = {name: getattr(args, name) for name in sizes}
    if args.line:
        print(json.dumps(measured(args.line[0], args.line[1] == "frozen", **asked)))
        return
    print("| head | loss | peak memory, of full logits' | seconds, of full logits' | value |\n|---|---|---|---|---|")
    options = [f"--{name}={size}" for name, size in asked.items()]
    for head in ("learns", "frozen"):
        full: dict[str, Any] = {}
        for way in WAYS:
            command = [sys.executable, __file__, *options, "--line", way, head]
            printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            one = json.loads(printed)
            full = full or one
            cost = f"{one['mib']:,.0f} MiB, {one['mib'] / full['mib']:.3f}"
            print(f"| {head} | {way} | {cost} | {one['seconds']:.1f}, {one['seconds'] / full['seconds']:.2f} |", end="")
            print(f" {one['loss']:.7f} |", flush=True)


if __name__ == "__main__":
    main()
