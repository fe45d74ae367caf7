"""What every test shares: the shapes sample, small encoders of every kind, the command in a subprocess.

Everything is made on the spot by `tools/make_shapes.py`; a test that needs the real rows and encoders is
marked `shared` and takes the fixture of that name.
"""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

# One process per core with one thread each; set before anything imports torch. No test meets a network.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ |= {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline", "TOKENIZERS_PARALLELISM": "false"}
for name in ("MMFT_ENCODERS", "MMFT_DEBUG"):
    os.environ.pop(name, None)
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="mmft-tests-")  # the store of frozen work, for all tests alike
atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)

import pytest
from command import Mmft, fork_mmft, run_mmft
from composed_once import compose_once
from make_shapes import Shapes, captions, make_shapes

# the fixtures `train_run`, `finished_run`, `shapes_overrides`, `pair_run` and `server`
pytest_plugins = ["runs", "pretrained_pairs", "servers"]
CHECKOUT = Path(__file__).parents[1]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="also the tests marked slow (make test-all)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselects what cannot run here, with a count in the summary: never a silent skip. Puts what is left in order."""
    left_out = set()
    if not os.environ.get("MMFT_SHARED"):
        left_out.add("shared")
    if not config.getoption("--all"):
        left_out.add("slow")
    dropped = [item for item in items if any(item.get_closest_marker(mark) for mark in left_out)]
    config.hook.pytest_deselected(items=dropped)
    items[:] = [item for item in items if item not in dropped]
    items.sort(key=lambda item: item.get_closest_marker("shared") is None)  # long, so that none runs alone at the end


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Environment, umask and working directory are afterwards as they were."""
    environment, folder, umask = dict(os.environ), Path.cwd(), os.umask(0o022)
    os.umask(umask)
    yield
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    os.umask(umask)


@pytest.fixture(autouse=True)
def _checkout_untouched() -> Iterator[None]:
    """A test that leaves something beside the code, such as a run of its own, fails."""
    before = set(CHECKOUT.iterdir())
    yield
    made = sorted(path.name for path in set(CHECKOUT.iterdir()) - before if not path.name.startswith((".", "_")))
    assert not made, f"in the checkout there is now {', '.join(made)}: something ran in a wrong folder"


@pytest.fixture(autouse=True)
def _composed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    compose_once(monkeypatch)


@pytest.fixture
def registry_restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Options of plugins that a test imports are forgotten afterwards; code is allowed only where a test says so."""
    from mmft.config import plugins, registry

    monkeypatch.setattr(registry, "_OPTIONS", {group: dict(named) for group, named in registry._OPTIONS.items()})
    monkeypatch.setattr(plugins, "_imported", set())
    monkeypatch.setattr(plugins, "_allowed", False)
    before = set(sys.modules)
    yield
    for name in [name for name in set(sys.modules) - before if name.startswith("my_")]:
        del sys.modules[name]


@pytest.fixture(scope="session", autouse=True)
def _without_flushing() -> Iterator[None]:
    """Nothing is flushed to the disk: no test turns the power off, and a run would wait for the disk 50 times."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Shapes:
    """The shapes sample: `.folder`, `.rows`, `.image_encoder`, `.text_encoder`. Not to be written to."""
    return make_shapes(tmp_path_factory.mktemp("shapes"))


EncoderFolder = Callable[..., Path]


def _cached(make: Callable[..., Path], root: Path) -> EncoderFolder:
    def folder(kind: str, width: int = 32, seed: int = 0) -> Path:
        out = root / f"{kind}_{width}_{seed}"
        return out if out.exists() else make(out, kind=kind, width=width, seed=seed)

    return folder


@pytest.fixture(scope="session")
def image_encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> EncoderFolder:
    """`image_encoder_folder(kind, width=32, seed=0)`: one of `tiny_encoders.IMAGE_KINDS`, made once."""
    from tiny_encoders import make_image_encoder

    return _cached(make_image_encoder, tmp_path_factory.mktemp("image_encoders"))


@pytest.fixture(scope="session")
def text_encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> EncoderFolder:
    """`text_encoder_folder(kind, width=32, seed=0)`: one of `tiny_encoders.TEXT_KINDS`, made once."""
    from tiny_encoders import make_text_encoder

    def make(out: Path, **options: object) -> Path:
        return make_text_encoder(out, captions(), **options)  # type: ignore[arg-type]

    return _cached(make, tmp_path_factory.mktemp("text_encoders"))


@pytest.fixture(scope="session")
def pair_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`pair_folder(kind)`: a pretrained pair, one of `tiny_pairs.FAMILIES`, made once."""
    from tiny_pairs import make_pair

    root = tmp_path_factory.mktemp("pairs")

    def folder(kind: str) -> Path:
        return root / kind if (root / kind).exists() else make_pair(root / kind, captions(), kind=kind)

    return folder


@pytest.fixture(scope="session")
def language_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`language_model_folder(kind, chat=False)`: one of `language_models.LANGUAGE_MODELS`, made once."""
    from language_models import write_language_model
    from make_shapes import LABELS

    root = tmp_path_factory.mktemp("language_models")

    def folder(kind: str, chat: bool = False) -> Path:
        out = root / f"{kind}{'_chat' * chat}"
        return out if out.exists() else write_language_model(kind, [*captions(), *LABELS, "what is it"], out, chat)

    return folder


@pytest.fixture(scope="session")
def whole_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`whole_folder(kind)`: a vision-language model, one of `whole_models.WHOLE_MODELS`, made once."""
    from make_shapes import LABELS
    from whole_models import write_whole

    root = tmp_path_factory.mktemp("whole_models")

    def folder(kind: str) -> Path:
        out = root / kind
        return out if out.exists() else write_whole(kind, [*captions(), *LABELS, "what is it"], out)

    return folder


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real rows and encoders; only for tests marked `shared`."""
    return Path(os.environ["MMFT_SHARED"])


@pytest.fixture(scope="session")
def mmft() -> Mmft:
    """`mmft("train", "seed=1", cwd=..., check=True)`: the command in a process of its own."""
    return run_mmft


@pytest.fixture(scope="session")
def forked_mmft() -> Mmft:
    """`mmft`, quicker: in a forked process, which does not import everything anew."""
    return fork_mmft
