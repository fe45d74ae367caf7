"""Memory that loading a language model takes, its frozen layers in float32, 16, 8 and 4 bits, as a table.

    MALLOC_MMAP_THRESHOLD_=65536 python tools/bench/loading_memory.py FOLDER

Each form is loaded in a process of its own, of which the anonymous memory is read every millisecond; pages of the file
itself do not count. The environment variable makes glibc give back small tensors, too, which it otherwise keeps for
later; tensors above 32 MiB it always gives back.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

FORMS = ("float32", "16", "8", "4")


def anonymous() -> int:
    """Bytes of anonymous memory of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))


def measure(folder: str, form: str) -> str:
    """Loads the model in this process; the form, bytes of its weights, and by how much memory grew at most."""
    import bitsandbytes  # noqa: F401 - imported before memory is read
    import transformers

    transformers.AutoTokenizer.from_pretrained(folder)  # imports what models need

    from mmft.models.frozen_layers import FrozenLayers
    from mmft.models.language import language_model
    from mmft.models.loading.source import resolve
    from mmft.tuning.quantize import Quantized

    frozen = {"float32": None, "16": FrozenLayers(), "8": Quantized(8), "4": Quantized(4)}[form]
    source = resolve(folder, "model.text_encoder.name")
    before, seen, ended = anonymous(), [0], threading.Event()

    def watch() -> None:
        while not ended.is_set():
            seen.append(anonymous())
            time.sleep(0.001)

    watching = threading.Thread(target=watch)
    watching.start()
    model = language_model._load(source, True, frozen)
    ended.set()
    watching.join()
    own = sum(p.numel() * p.element_size() for p in model.parameters())
    return f"| {form} | {own / 1e6:.0f} | {(max(seen) - before) / 1e6:.0f} |"


def main() -> None:
    """Prints the table; called with a form, its line."""
    folder, *form = sys.argv[1:]
    if form:
        print(measure(folder, form[0]))
        return
    print("| layers | MB of weights | MB of memory while loading |\n|---|---|---|", flush=True)
    for one in FORMS:
        subprocess.run([sys.executable, __file__, folder, one], check=True, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
