"""Everything that mmft claims about GPUs, measured by one command in at most 8 minutes. Needs no network.

    python tools/gpu/pack.py .whl                                  # here, with a network
    python3 tools/gpu/run.py OUT --wheels .whl                     # there, from the checkout
    python tools/gpu/run.py OUT --device cpu --smallest            # whether the command itself works, without a GPU

Runs each section (`tools/gpu/*.py`) in a process of its own within a budget of seconds, so that one that fails, hangs
or breaks the card's context costs the others nothing. Writes OUT/gpu.md and OUT/gpu.json, a row for each measurement,
and OUT/errors.txt with what failed; ends with 1 if something did. `--encoders FOLDER` has `dinov2-small-timm` and
`minilm-l6`; one that is not there is replaced by random weights of the same size, so that one alone can travel where
both are too large. `--only NAME ...` runs some sections.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[2]
SECTIONS = {"about": 30, "runs": 110, "steps": 120, "caching": 80, "memory": 60, "quantized": 80, "ranks": 60}
"""Each section, in order, and the seconds that it may take on a machine with a GPU, its imports included."""
ON_A_CPU = 4  # times as long: a shared machine took 36 s for imports that are 10 s of work
TOTAL = 470.0
COLUMNS = ("section", "name", "ours", "reference", "ratio", "verdict")
Row = dict[str, Any]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument(
        "--smallest", action="store_true", help="encoders of width 32, a few steps: a test of this tool"
    )
    parser.add_argument("--encoders", type=Path, default=CHECKOUT.parent / "shared" / "encoders")
    parser.add_argument("--wheels", type=Path, help="folder that tools/gpu/pack.py has filled")
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), default=list(SECTIONS))
    args = parser.parse_args()
    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    (out / "errors.txt").unlink(missing_ok=True)
    began, rows = time.monotonic(), list[Row]()
    with tempfile.TemporaryDirectory() as scratch:
        environment = prepared(Path(scratch) / "site", args.wheels)
        setting = {"device": args.device, "smallest": args.smallest, "scratch": scratch, "out": str(out)}
        setting["encoders"] = str(args.encoders.resolve())
        for name in args.only:
            slower = ON_A_CPU if args.device == "cpu" else 1
            left, most = TOTAL * slower - (time.monotonic() - began), SECTIONS[name] * slower
            rows += measured(name, setting, min(most, left), environment, out)
            write(rows, out, time.monotonic() - began)
    print((out / "gpu.md").read_text(encoding="utf-8"))
    sys.exit(any(row["verdict"] == "FAILED" for row in rows))


def prepared(site: Path, wheels: Path | None) -> dict[str, str]:
    """The environment of the sections: the wheels in a private folder, then the checkout and its tools."""
    site.mkdir(parents=True)
    if wheels is not None:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
        files = [str(wheel) for wheel in sorted(wheels.glob("*.whl"))]
        subprocess.run(
            [*pip, "--no-cache-dir", "--disable-pip-version-check", "--target", str(site), *files], check=True
        )
    try:
        importlib.metadata.version("mmft")
    except importlib.metadata.PackageNotFoundError:
        describe_checkout(site)
    tools = CHECKOUT / "tools"
    paths = [site, CHECKOUT, tools, tools / "bench", *filter(None, [os.environ.get("PYTHONPATH")])]
    offline = {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline", "TOKENIZERS_PARALLELISM": "false"}
    return os.environ | offline | {"PYTHONPATH": os.pathsep.join(map(str, paths)), "PYTHONUNBUFFERED": "1"}


def describe_checkout(site: Path) -> None:
    """Gives a checkout that is not installed the metadata in which mmft looks up its own version."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    folder = site / f"mmft-{project['version']}.dist-info"
    folder.mkdir()
    lines = f"Metadata-Version: 2.1\nName: mmft\nVersion: {project['version']}\n"
    (folder / "METADATA").write_text(lines, encoding="utf-8")


def measured(name: str, setting: Row, seconds: float, environment: dict[str, str], out: Path) -> list[Row]:
    """The rows of one section; the last says so if it failed."""
    print(f"{name}: at most {seconds:.0f} s", flush=True)
    file = Path(setting["scratch"]) / f"{name}.jsonl"
    log = Path(setting["scratch"]) / f"{name}.log"
    began, error = time.monotonic(), ""
    if seconds > 5:
        command = [sys.executable, "-m", "gpu.section", name, json.dumps(setting | {"rows": str(file)})]
        with log.open("wb") as sink:
            process = subprocess.Popen(
                command, cwd=setting["scratch"], env=environment, stdout=sink, stderr=sink, process_group=0
            )
            try:
                code = process.wait(seconds)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)  # its ranks, too
                code, error = process.wait(), f"took longer than {seconds:.0f} s"
        if code and not error:
            error = f"ended with {code}: {last_line(log)}"
    else:
        error = "no time was left"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    if error:
        rows.append({"section": name, "name": "the section", "ours": error, "verdict": "FAILED"})
    if error or any(row["verdict"] == "FAILED" for row in rows):
        said = log.read_text(errors="replace")[-20000:] if log.exists() else ""
        with (out / "errors.txt").open("a") as errors:
            errors.write(f"===== {name}: {error}\n{said}\n")
    for row in rows:
        print("   " + "  ".join(f"{row[column]}" for column in COLUMNS[1:] if row.get(column) is not None), flush=True)
    print(f"   {time.monotonic() - began:.0f} s", flush=True)
    return rows


def last_line(log: Path) -> str:
    """What a process that failed said last: the error."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "without a word"


def write(rows: list[Row], out: Path, seconds: float) -> None:
    """Both files; written anew after every section, so that nothing is lost where the command is stopped."""
    about: Row = next((row["about"] for row in rows if "about" in row), {})
    head = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **about,
        "seconds": round(seconds),
    }
    (out / "gpu.json").write_text(json.dumps({**head, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    lines = [", ".join(f"{key} {value}" for key, value in head.items()), ""]
    lines += [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    for row in rows:
        cells = ["" if row.get(column) is None else str(row[column]) for column in COLUMNS]
        lines.append("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")
    failed = sum(row["verdict"] == "FAILED" for row in rows)
    lines += ["", f"{len(rows)} rows, {failed} failed."]
    (out / "gpu.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
