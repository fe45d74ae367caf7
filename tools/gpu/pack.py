"""Collects, as wheels, what mmft needs and a GPU machine without a network may lack. Runs here, with a network.

    python tools/gpu/pack.py FOLDER [--cuda 130] [--python 3.12] [--also NAME ...]

hydra-core, omegaconf, antlr4-python3-runtime (built: there is no wheel of it) and bitsandbytes, in the versions that
are installed here. Of bitsandbytes' libraries only those for the CPU and for one CUDA (as in `torch.version.cuda`,
without the dot) are kept. `run.py --wheels FOLDER` installs them there.
"""

from __future__ import annotations

import argparse
import csv
import io
import re
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

DOWNLOADED = ["hydra-core", "omegaconf", "bitsandbytes"]
BUILT = ["antlr4-python3-runtime"]
GLIBC = ("2_28", "2_24", "2_17", "2014")
MOST_MIB = 60
_LIBRARY = re.compile(r"bitsandbytes/libbitsandbytes_(\w+)\.so$")


def pack(folder: Path, cuda: str, python: str, also: list[str]) -> int:
    """Fills `folder`; gives its size in bytes.

    Args:
        folder: made where it is not there; wheels in it are replaced.
        cuda: whose library of bitsandbytes is kept, such as `130`.
        python: version there.
        also: more packages.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.whl"):
        old.unlink()
    platforms = [f"--platform=manylinux{'' if glibc.isdecimal() else '_'}{glibc}_x86_64" for glibc in GLIBC]
    where = ["--no-deps", "--only-binary=:all:", f"--python-version={python}", "--implementation=cp", *platforms]
    _pip("download", *where, "--dest", str(folder), *map(_pinned, [*DOWNLOADED, *also]))
    _pip("wheel", "--no-deps", "--wheel-dir", str(folder), *map(_pinned, BUILT))
    for wheel in folder.glob("bitsandbytes-*.whl"):
        slim(wheel, {"cpu", f"cuda{cuda}"})
    return sum(wheel.stat().st_size for wheel in folder.glob("*.whl"))


def slim(wheel: Path, kept: set[str]) -> None:
    """Leaves out of bitsandbytes' wheel all libraries but `kept`, and their lines of RECORD.

    Raises:
        SystemExit: it has no such library.
    """
    aside = wheel.with_suffix(".part")
    with zipfile.ZipFile(wheel) as whole, zipfile.ZipFile(aside, "w", zipfile.ZIP_DEFLATED) as part:
        libraries = {found[1]: name for name in whole.namelist() if (found := _LIBRARY.match(name))}
        if missing := kept - libraries.keys():
            sys.exit(f"{wheel.name} has no library for {', '.join(missing)}; it has {', '.join(sorted(libraries))}.")
        dropped = {name for kind, name in libraries.items() if kind not in kept}
        for info in whole.infolist():
            if info.filename not in dropped:
                content = whole.read(info)
                if info.filename.endswith(".dist-info/RECORD"):
                    content = _without(content.decode(), dropped).encode()
                part.writestr(info, content, zipfile.ZIP_DEFLATED)
    aside.replace(wheel)


def _without(record: str, dropped: set[str]) -> str:
    lines = [line for line in csv.reader(io.StringIO(record)) if line and line[0] not in dropped]
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(lines)
    return out.getvalue()


def _pinned(name: str) -> str:
    return f"{name}=={version(name)}"


def _pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", *arguments, "--quiet", "--disable-pip-version-check"], check=True)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cuda", default="130", help="of torch there, without the dot")
    parser.add_argument("--python", default="3.12", help="version there")
    parser.add_argument("--also", nargs="*", default=[], help="more packages, in the versions installed here")
    args = parser.parse_args()
    size = pack(args.folder, args.cuda, args.python, args.also)
    for wheel in sorted(args.folder.glob("*.whl")):
        print(f"{wheel.stat().st_size / 2**20:7.2f} MiB  {wheel.name}")
    print(f"{size / 2**20:7.2f} MiB  in all, of at most {MOST_MIB}")
    if size > MOST_MIB * 2**20:
        sys.exit(1)


if __name__ == "__main__":
    main()
