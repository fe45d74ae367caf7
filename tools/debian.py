"""Packages of Debian as folders, unpacked and not installed. Needs `apt-get` and `dpkg-deb`."""

from __future__ import annotations

import subprocess
from pathlib import Path


def unpacked(package: str, into: Path) -> Path:
    """The folder of a package below `into`; one that is there is taken as it is.

    Raises:
        CalledProcessError: it could not be downloaded (after `apt-get update`) or unpacked.
    """
    folder = into / package
    if not folder.is_dir():
        into.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", "-q", package], cwd=into, check=True)
        (archive,) = into.glob(f"{package}_*.deb")
        part = folder.with_suffix(".part")
        subprocess.run(["dpkg-deb", "-x", str(archive), str(part)], check=True)
        archive.unlink()
        part.rename(folder)
    return folder
