"""mmft and its peers on the same rows, encoders, image size, batch size and epochs, each in an environment of its own.

    python tools/bench/peers/run.py --shared ../shared --out FOLDER [--settings full frozen] [--peers mmft trainer]
        [--seeds 3] [--epochs N] [--rows N] [--lanes 2] [--page docs/compare.md]

Makes the environments (`FOLDER/env`), runs `scripts/SETTING_PEER` of each setting, peer and seed with one thread, and
keeps what was measured in `FOLDER/results`, a file for each. What is there with as many rows and epochs is not
measured again, so that the command goes on where it was stopped; `--again` measures the chosen ones once more,
`--table` measures nothing. The tables are printed and, with `--page`, written between the page's markers.

Seconds, memory and processor are those of the whole command that a user would type, from its start to the answers on
the test rows, with all its processes. What quality is, `judge.py` says, on the answers that the command wrote.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import datetime
import json
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from peers import environments, judge, lines, measure, page, rows
from peers.setting import IMAGE_ENCODERS, SETTINGS, TEXT_ENCODER, TIMM_ENCODER, TITLES, environment_of, script

ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"}
# Offline, on the CPU; scripts are named like packages, so that their folder must not be searched for modules.
FIXED = {**ONE_THREAD, "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline"}
FIXED |= {"CUDA_VISIBLE_DEVICES": "", "PYTHONSAFEPATH": "1"}


class Bench:
    """Where everything lies, and what is asked for."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.out: Path = args.out.resolve()
        self.shared: Path = args.shared.resolve()
        self.args = args

    def results(self) -> Path:
        """The folder of what was measured."""
        folder = self.out / "results"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def epochs(self, setting: str) -> int:
        """Passes over the training rows."""
        return self.args.epochs or SETTINGS[setting].epochs

    def python(self, environment: str) -> Path:
        """The interpreter of an environment."""
        return Path(sys.executable) if self.args.here else environments.make(self.out / "env", environment)

    def measure_all(self, job: list[tuple[str, str, int]]) -> None:
        """Those of one job, in its order."""
        for setting, peer, seed in job:
            self.measure(setting, peer, seed)

    def measure(self, setting: str, peer: str, seed: int) -> None:
        """Runs a peer's script, judges its answers and keeps the figures."""
        kept = self.results() / f"{setting}-{peer}-{seed}.json"
        given = self._given(setting, peer)
        what = {"epochs": self.epochs(setting), "train_rows": len(rows.read(given["ROWS"], "train"))}
        if kept.exists() and what.items() <= json.loads(kept.read_text()).items() and not self.args.again:
            return
        python = self.python(environment_of(peer))
        work = self.out / "work" / f"{setting}-{peer}-{seed}"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        log = self.results() / f"{setting}-{peer}-{seed}.log"
        print(f"{datetime.datetime.now():%H:%M} {SETTINGS[setting].title}, {TITLES[peer]}, seed {seed}", flush=True)
        load = os.getloadavg()[0]
        cost = measure.run(
            self._command(python, setting, peer, given, work, seed),
            self._environment(python, setting, peer, given, work, seed),
            log,
            work,
        )
        if cost.exit_code:
            raise RuntimeError(f"{setting} {peer} ended with {cost.exit_code}; see {log}")
        figures = {
            "setting": setting,
            "peer": peer,
            "seed": seed,
            **what,
            "test_rows": len(rows.read(given["ROWS"], "test")),
            "quality": self._quality(setting, given["ROWS"], work),
            **cost._asdict(),
            "model_bytes": measure.size(_model(work)),
            "written_bytes": measure.size(work),
            "lines": lines.count(script(setting, peer)),
            "versions": environments.versions(python, environment_of(peer)),
            "machine": _machine(),
            "load_before": load,
            "load_after": os.getloadavg()[0],
            "lanes": self.args.lanes,
            "date": datetime.date.today().isoformat(),
        }
        kept.write_text(json.dumps(figures, indent=1) + "\n")
        shutil.rmtree(work)

    def _given(self, setting: str, peer: str) -> dict[str, Path]:
        """The folders of rows and encoders."""
        image = IMAGE_ENCODERS.get(peer, TIMM_ENCODER)
        return {
            "ROWS": self.out / "rows" / setting,
            "IMAGE_ENCODER": self.out / "encoders" / image,
            "TEXT_ENCODER": self.out / "encoders" / TEXT_ENCODER,
        }

    def _command(
        self, python: Path, setting: str, peer: str, given: dict[str, Path], work: Path, seed: int
    ) -> list[str]:
        path = script(setting, peer)
        if path.suffix == ".sh":
            return ["sh", "-eu", str(path)]
        return [str(python), str(path), *map(str, given.values()), str(work), str(seed), str(self.epochs(setting))]

    def _environment(
        self, python: Path, setting: str, peer: str, given: dict[str, Path], work: Path, seed: int
    ) -> dict[str, str]:
        told = {"OUT": work, "SEED": seed, "EPOCHS": self.epochs(setting), **given}
        # mmft's store of frozen work: the second run has what the first left there.
        store = self.out / "work" / f"{setting}-{environment_of(peer)}-{seed}-store"
        if peer == "mmft":
            shutil.rmtree(store, ignore_errors=True)
        elif peer == "mmft_again" and not store.exists():
            raise ValueError(f"{store}, which mmft's first run left, is gone: measure it once more with --again")
        passed = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        here = {"PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}", "XDG_CACHE_HOME": str(store)}
        return {**passed, **FIXED, **here, **{name: str(value) for name, value in told.items()}}

    @staticmethod
    def _quality(setting: str, given: Path, work: Path) -> float:
        if SETTINGS[setting].metric == "accuracy":
            return judge.accuracy(given / "test.csv", work / "answers.csv")
        return judge.mean_recall(given / "test.csv", work / "embeddings.npz")

    def prepare(self) -> None:
        """Writes the rows and the encoders."""
        for name in {TIMM_ENCODER, TEXT_ENCODER, *IMAGE_ENCODERS.values()}:
            rows.write_encoder(self.shared / "encoders" / name, self.out / "encoders" / name)
        for name, one in SETTINGS.items():
            manifest = self.shared / "data/clipart/manifest.csv"
            rows.write_rows(manifest, self.out / "rows" / name, one.metric != "accuracy", self.args.rows)

    def jobs(self) -> list[list[tuple[str, str, int]]]:
        """Setting, peer and seed, in turns; those in one list depend on each other, in this order."""
        found = []
        for seed in range(self.args.seeds):
            for setting in self.args.settings:
                peers = [peer for peer in SETTINGS[setting].peers if environment_of(peer) in self.args.peers]
                first = [[(setting, peer, seed)] for peer in peers if peer != "mmft_again"]
                if "mmft_again" in peers:
                    first[-1].append((setting, "mmft_again", seed))
                found += first
        return found


def _model(work: Path) -> Path:
    """The folder that answers new rows; mmft's is in its run folder, beside what resuming needs."""
    return next((path.parent for path in work.glob("model/*/*/model/config.json")), work / "model")


def _machine() -> dict[str, Any]:
    """The processor, the cores that may be used, and the memory."""
    about = Path("/proc/cpuinfo").read_text()
    names = [line.partition(":")[2].strip() for line in about.splitlines() if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    cores = len(os.sched_getaffinity(0))
    return {"processor": names[0] if names else platform.machine(), "cores": cores, "memory_bytes": memory}


def parsed() -> argparse.Namespace:
    """What was typed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True, help="the folder of rows and encoders")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--settings", nargs="*", choices=list(SETTINGS), default=list(SETTINGS))
    peers = [peer for peer in TITLES if peer == environment_of(peer)]
    parser.add_argument("--peers", nargs="*", choices=peers, default=peers)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--epochs", type=int, help="of every setting, instead of its own number")
    parser.add_argument("--rows", type=int, help="at most so many training rows, and as large a share of the others")
    parser.add_argument("--lanes", type=int, default=1, help="peers that run at the same time, with a thread each")
    parser.add_argument("--again", action="store_true", help="measure again what has been measured")
    parser.add_argument("--here", action="store_true", help="run all in this Python's environment, for a trial")
    parser.add_argument("--table", action="store_true", help="measure nothing")
    parser.add_argument("--page", type=Path, help="the page to write the tables into")
    return parser.parse_args()


def main() -> int:
    """The command."""
    args = parsed()
    bench = Bench(args)
    failed = []
    if not args.table:
        bench.prepare()
        for environment in args.peers:
            bench.python(environment)
        with concurrent.futures.ThreadPoolExecutor(args.lanes) as pool:
            running = [pool.submit(bench.measure_all, job) for job in bench.jobs()]
            for done in concurrent.futures.as_completed(running):
                if error := done.exception():
                    failed.append(error)
                    print(f"not measured: {error}", file=sys.stderr, flush=True)
    tables = page.tables(bench.results())
    print(tables)
    if args.page:
        page.write(args.page, tables)
    return 3 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
