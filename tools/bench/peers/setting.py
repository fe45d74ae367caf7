"""What is compared: the settings, the peers in each, and where the script of each is."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[2]


class Setting(NamedTuple):
    """One job, that all its peers do on the same rows."""

    title: str
    epochs: int
    metric: str  # `accuracy` or `mean recall`
    peers: tuple[str, ...]  # each has a script and, but for mmft's second run, requirements


SETTINGS = {
    "full": Setting("Classification, everything trained", 2, "accuracy", ("loop", "trainer", "autogluon", "mmft")),
    "frozen": Setting(
        "Classification, encoders frozen", 5, "accuracy", ("loop", "trainer", "autogluon", "mmft", "mmft_again")
    ),
    "retrieval": Setting(
        "Retrieval between titles and images, everything trained",
        1,
        "mean recall",
        ("loop", "trainer", "sentence_transformers", "open_clip", "mmft"),
    ),
}
TITLES = {
    "loop": "loop by hand",
    "trainer": "transformers' Trainer",
    "autogluon": "AutoGluon MultiModal",
    "sentence_transformers": "sentence-transformers",
    "open_clip": "open_clip",
    "mmft": "mmft",
    "mmft_again": "mmft, another run on these rows",
}
IMAGE_ENCODERS = {"trainer": "dinov2-small", "sentence_transformers": "dinov2-small"}  # of the others: timm's folder
TIMM_ENCODER, TEXT_ENCODER = "dinov2-small-timm", "minilm-l6"


def environment_of(peer: str) -> str:
    """The environment that a peer runs in."""
    return "mmft" if peer == "mmft_again" else peer


def script(setting: str, peer: str) -> Path:
    """What a user of the peer writes."""
    name = f"{setting}_{environment_of(peer)}"
    return next(path for ending in ("py", "sh") if (path := HERE / "scripts" / f"{name}.{ending}").exists())


def requirements(environment: str) -> Path:
    """What is installed for a peer, a package to a line."""
    return HERE / "requirements" / f"{environment}.txt"
