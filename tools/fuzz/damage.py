"""Ways to damage any file."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

Damage = Callable[[bytes, Random], bytes]


def changed(data: bytes, random: Random) -> bytes:
    """One to eight bytes are replaced, inserted or deleted."""
    made = bytearray(data)
    for _ in range(random.randint(1, 8)):
        at = random.randrange(len(made) + 1)
        made[at : at + random.choice((0, 1, 1))] = random.randbytes(random.choice((0, 1, 1)))
    return bytes(made)


def flipped(data: bytes, random: Random) -> bytes:
    """One bit is another."""
    made = bytearray(data)
    made[random.randrange(len(made))] ^= 1 << random.randrange(8)
    return bytes(made)


def cut(data: bytes, random: Random) -> bytes:
    """The end is missing."""
    return data[: random.randrange(len(data))]


def zeroed(data: bytes, random: Random) -> bytes:
    """A stretch is zeros."""
    start = random.randrange(len(data))
    length = random.randint(1, max(1, len(data) - start))
    return data[:start] + bytes(length) + data[start + length :]


def emptied(_: bytes, __: Random) -> bytes:
    """Nothing is left."""
    return b""


def random_bytes(data: bytes, random: Random) -> bytes:
    """Nothing is as it was but, half of the time, the first bytes."""
    return data[: random.choice((0, 16))] + random.randbytes(random.randint(1, 2000))


def other(data: bytes, random: Random, damages: tuple[Damage, ...]) -> tuple[bytes, str]:
    """`data` damaged in one of these ways so that it differs, and the way's name."""
    while True:
        damage = random.choice(damages)
        made = damage(data, random)
        if made != data:
            return made, damage.__name__
