"""Random draws that depend on a row's name and the seed, not on its position."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
import numpy.typing as npt


def unit_hashes(names: Sequence[str], seed: int, purpose: str) -> npt.NDArray[np.float64]:
    """One number in [0, 1) per name, a pure function of (name, seed, purpose).

    Args:
        names: of rows, groups or labels.
        seed: of the run.
        purpose: makes draws for different purposes independent.
    """
    key = f"{purpose}:{seed}".encode()
    digests = b"".join(blake2b(name.encode(errors="surrogatepass"), digest_size=8, key=key).digest() for name in names)
    words = np.frombuffer(digests, dtype="<u8") >> np.uint64(11)
    return words.astype(np.float64) * np.float64(2.0**-53)
