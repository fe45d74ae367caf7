"""A folder with a table, and overrides for a complete config there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mmft.config.compose import Composed, compose
from mmft.errors import UserError

COMPLETE = (
    "data.path=rows.csv",
    "data.columns.image=image",
    "data.columns.text=title",
    "data.columns.label=label",
    "model.image_encoder.name=timm/vit_tiny_patch16_224",
    "model.text_encoder.name=hf/bert-base-uncased",
)

Refused = Callable[..., str]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of the test; `rows.csv`, `val.csv`, `photo.csv` and `images/` are in it."""
    for name in ("rows.csv", "val.csv", "photo.csv"):
        (tmp_path / name).write_text("image,title,label\n", encoding="utf-8")
    (tmp_path / "images").mkdir()
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def refused(folder: Path) -> Refused:
    """`refused("seed=x")`: the messages of a complete config with these overrides, which must be refused.

    It also makes sure that nothing was run: hostile configs of these tests would make a file `touched`.
    """

    def messages(*overrides: str, command: str = "train", base: tuple[str, ...] = COMPLETE, **options: object) -> str:
        with pytest.raises(UserError) as caught:
            compose(command, [*base, *overrides], **options)  # type: ignore[arg-type]
        assert not list(folder.rglob("touched"))
        return "\n".join(caught.value.messages)

    return messages


@pytest.fixture
def composed(folder: Path) -> Callable[..., Composed]:
    """`composed("seed=1")`: a complete config with these overrides."""
    assert folder.is_dir()

    def run(*overrides: str, **options: object) -> Composed:
        return compose("train", [*COMPLETE, *overrides], **options)  # type: ignore[arg-type]

    return run


@pytest.fixture
def own(folder: Path) -> Callable[[str, str], Path]:
    """`own("experiment/mine", text)`: writes a user's YAML file and returns the folder for --config-dir."""

    def write(name: str, text: str) -> Path:
        file = folder / "own" / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        return folder / "own"

    return write
