"""What the tiny encoders learn from: Debian packages of free images and of WordNet, unpacked, not installed.

Each package's licence is in its own `usr/share/doc/<package>/copyright`; `LICENCES` is what NOTICE says of it.
Needs `apt-get` and `dpkg-deb`, and `rsvg-convert` (Debian's librsvg2-bin) for drawings.
"""

from __future__ import annotations

from pathlib import Path

from debian import unpacked

LICENCES = {
    "openclipart-png": "Open Clip Art Library 0.18, public domain",
    "openclipart-svg": "Open Clip Art Library 0.18, public domain (its titles)",
    "tuxpaint-stamps-default": "Tux Paint stamps, GPL-2 and public domain",
    "fonts-noto-color-emoji": "Noto Color Emoji, SIL OFL 1.1 and Apache-2.0",
    "oxygen-icon-theme": "Oxygen icons, LGPL-3+",
    "gnome-icon-theme": "GNOME icons, GPL-2+ and GPL-3+",
    "mate-icon-theme": "MATE icons, LGPL-3+ or CC-BY-SA",
    "tango-icon-theme": "Tango icons, public domain",
    "wordnet-base": "WordNet 3.0, WordNet licence (free for any purpose, with its notice)",
}


def fetch(work: Path) -> dict[str, Path]:
    """Every package of `LICENCES`, unpacked under `work/sources`; what is there already is taken as it is.

    Returns:
        The folder of each package, by name.

    Raises:
        CalledProcessError: a package could not be downloaded (after `apt-get update`) or unpacked.
    """
    return {package: unpacked(package, work / "sources") for package in LICENCES}
