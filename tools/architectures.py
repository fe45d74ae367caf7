"""Trains one step with a tiny random encoder of each architecture, and lists what came of it: docs/architectures.md.

    python tools/architectures.py                        all (about half an hour on two cores)
    python tools/architectures.py bert swin timm/levit   these, printed

Every text and image model that transformers' `AutoModel` maps, and the smallest model of every family of timm. A config
is made tiny by rule: what it calls width, layers or heads becomes small. An architecture for which the rule gives no
small, working config is listed as not tried. The step is `mmft train` itself, in this process.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import io
import json
import logging
import os
import signal
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

import timm
import torch
import transformers as hf
from make_shapes import captions, make_shapes
from tiny_configs import NoTinyConfig, tiny_config, write_transformers
from tiny_tokenizers import make_tokenizer
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from mmft.commands.train import train
from mmft.config.compose import compose
from mmft.errors import MmftError, first_line

TABLE = Path(__file__).parents[1] / "docs" / "architectures.md"
SECONDS = 120
_SMALL = ("test_", "atto", "femto", "pico", "nano", "tiny", "_ti_", "_t0", "xxs", "_xs", "_s0", "_b0", "_050", "small")
TRAINS, REFUSED, NOT_TRIED, FAILS = "trains", "refused", "not tried", "FAILS"


class Outcome(NamedTuple):
    """What came of one architecture.

    Attributes:
        part: `text`, `image`, or `timm`.
        kind: transformers' model type, or `timm/FAMILY`.
        model: the model's class, or timm's architecture.
        what: one of the words above.
        why: the sentence that explains it.
    """

    part: str
    kind: str
    model: str
    what: str
    why: str = ""


def transformers_kind(model_type: str) -> tuple[str, Any, Any] | None:
    """`text` or `image`, config class and model class of a model type; None if it reads both or something else."""
    try:
        config_class = hf.CONFIG_MAPPING[model_type]
        mapped: Any = hf.AutoModel._model_mapping[config_class]
        model_class = mapped[0] if isinstance(mapped, tuple) else mapped
        accepts = set(inspect.signature(model_class.forward).parameters)
    except (KeyError, ValueError, ImportError):  # mapped, but not in this version, or not without another package
        return None
    reads = [part for part, name in (("text", "input_ids"), ("image", "pixel_values")) if name in accepts]
    others = {"input_features", "input_values", "pixel_values_videos", "bbox", "visual_embeds"} & accepts
    return (reads[0], config_class, model_class) if len(reads) == 1 and not others else None


def timm_kinds(wanted: list[str] | None) -> dict[str, str]:
    """`timm/family` -> a small architecture of the family; None for all families."""
    found = {}
    for family in timm.list_modules() if wanted is None else [name.removeprefix("timm/") for name in wanted]:
        sizes = {}
        names = sorted(timm.list_models(module=family), key=lambda name: not any(word in name for word in _SMALL))
        for name in names[:4]:
            with contextlib.suppress(Exception), torch.device("meta"):
                sizes[name] = sum(p.numel() for p in timm.create_model(name, num_classes=0).parameters())
        if sizes:
            found[f"timm/{family}"] = min(sizes, key=lambda name: (sizes[name], name))
    return found


class Bench:
    """A folder with rows and the usual encoders, in which architectures are tried."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shapes = make_shapes(folder / "shapes")
        self.tokenizer = make_tokenizer("bert", captions())
        self.tried = 0

    def transformers(self, kind: str, reads: str, config_class: Any, model_class: Any) -> Outcome:
        """Tries a model type of transformers."""
        name = model_class.__name__
        out = self._new()
        special = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 0}
        own = {"vocab_size": len(self.tokenizer) + 8, "use_cache": False, **special} if reads == "text" else {}
        try:
            write_transformers(tiny_config(config_class, **own), model_class, reads, out)
        except NoTinyConfig as error:
            return Outcome(reads, kind, name, NOT_TRIED, str(error))
        if reads == "text":
            self.tokenizer.save_pretrained(out)
        return Outcome(reads, kind, name, *self._train(out, reads, ()))

    def timm(self, family: str, architecture: str) -> Outcome:
        """Tries an architecture of timm, with images of 64 pixels where it takes them, else of its own size."""
        out = self._new()
        own = timm.get_pretrained_cfg(architecture)
        config = {
            "architecture": architecture,
            "pretrained_cfg": {"input_size": own.input_size if own else (3, 224, 224)},
        }
        (out / "config.json").write_text(json.dumps(config))
        what = self._train(out, "image", ("model.image_encoder.pretrained=false",))
        if what[0] == REFUSED:
            what = self._train(
                out, "image", ("model.image_encoder.pretrained=false", "model.image_encoder.image_size=null")
            )
        return Outcome("timm", family, architecture, *what)

    def _new(self) -> Path:
        self.tried += 1
        out = self.folder / f"encoder_{self.tried}"
        out.mkdir()
        return out

    def _train(self, encoder: Path, reads: str, more: tuple[str, ...]) -> tuple[str, str]:
        self.tried += 1
        size = () if reads == "text" else ("model.image_encoder.image_size=64",)
        quick = ("data.limit=8", "data.batch_size=4", "data.max_bad_fraction=1", "trainer.max_steps=1")
        quiet = ("callbacks.progress=none", "modality_report=false", "optim.lr=1e-3")
        typed = [*self.shapes.overrides, f"model.{reads}_encoder.name={encoder}", *size, *quick, *quiet, *more]
        try:
            with _quiet(), _limited(SECONDS):
                train(compose("train", typed), self.folder / f"run_{self.tried}")
        except MmftError as error:
            return REFUSED, str(error).replace(str(encoder), "FOLDER").replace(
                f"model.{reads}_encoder.name=FOLDER: ", ""
            )
        except TimeoutError:
            return NOT_TRIED, f"takes more than {SECONDS} seconds"
        except Exception as error:  # noqa: BLE001 - what the table is for
            return FAILS, f"{type(error).__name__}: {first_line(error)}"
        return TRAINS, ""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


@contextlib.contextmanager
def _limited(seconds: int) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def outcomes(wanted: list[str] | None = None) -> Iterator[Outcome]:
    """Tries architectures by name: model types of transformers, and `timm/FAMILY`; None for all."""
    types = list(MODEL_MAPPING_NAMES) if wanted is None else [name for name in wanted if "/" not in name]
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        for name in sorted(types):
            if (kind := transformers_kind(name)) is not None:
                yield bench.transformers(name, *kind)
        families = timm_kinds(None if wanted is None else [name for name in wanted if "/" in name])
        for name, architecture in families.items():
            yield bench.timm(name, architecture)


def table(found: list[Outcome]) -> str:
    """The text of docs/architectures.md."""
    counts = Counter(outcome.what for outcome in found)
    titles = {
        "text": "Text encoders of transformers",
        "image": "Image encoders of transformers",
        "timm": "timm's families",
    }
    versions = f"transformers {hf.__version__} and timm {timm.__version__}"
    lines = [
        "# Architectures",
        "",
        "What `mmft train` does with an encoder of each architecture, tried with a tiny one with random weights: it",
        "trains a step, or refuses the encoder in a sentence before anything is trained. Made by",
        f"`tools/architectures.py` with {versions}. {counts[TRAINS]} train, {counts[REFUSED]} are refused.",
    ]
    for part, title in titles.items():
        lines += ["", f"## {title}", "", "| architecture | model | outcome |", "|---|---|---|"]
        lines += [
            f"| {one.kind} | {one.model} | {one.what if one.what == TRAINS else f'refused: {one.why}'} |"
            for one in found
            if one.part == part and one.what in (TRAINS, REFUSED)
        ]
    untried = ", ".join(one.kind for one in found if one.what == NOT_TRIED)
    lines += [
        "",
        "## Not tried",
        "",
        "No config that runs in transformers itself could be made small by rule:",
        untried,
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    names = parser.parse_args().names
    found = []
    for outcome in outcomes(names or None):
        print(*outcome, sep="\t", flush=True)
        found.append(outcome)
    if not names:
        TABLE.write_text(table(found), encoding="utf-8")
    if any(outcome.what == FAILS for outcome in found):
        raise SystemExit("not all train or are refused")


if __name__ == "__main__":
    main()
