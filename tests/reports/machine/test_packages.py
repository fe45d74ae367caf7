"""Python and packages, as the doctor sees them."""

from __future__ import annotations

import pytest

from mmft.reports.machine import packages as module
from mmft.reports.machine.diagnosis import Diagnosis
from mmft.reports.machine.packages import packages, python, requirements


def test_an_old_python_is_fatal() -> None:
    assert python((3, 11, 0), "python").wrong is None
    assert python((3, 10, 9), "python").fatal


def test_requirements_are_those_of_the_package() -> None:
    ranges = requirements()
    assert "!=2.6.2" in ranges["lightning"]
    assert "torch" in ranges
    assert "pytest" not in ranges  # of an extra


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> dict[str, str | None]:
    """Versions that are installed; a test may change them."""
    versions: dict[str, str | None] = dict.fromkeys(("torch", "wandb", "numpy", "timm"), "2.0")
    ranges = {"torch": ">=2,<3", "wandb": ">=1", "numpy": ">=2", "timm": ">=1"}
    monkeypatch.setattr(module, "installed", versions.get)
    monkeypatch.setattr(module, "requirements", lambda: ranges)
    monkeypatch.setattr(module, "_SHOWN", {"torch": True, "timm": True, "wandb": False})
    return versions


def by_name(broken: str = "") -> dict[str, Diagnosis]:
    def import_it(name: str) -> None:
        if name == broken:
            raise ImportError("cannot\nbe imported")

    return {finding.name: finding for finding in packages(import_it)}


@pytest.mark.usefixtures("found")
def test_versions_are_shown() -> None:
    assert by_name() == {name: Diagnosis(name, "2.0") for name in ("torch", "timm", "wandb")}


def test_missing(found: dict[str, str | None]) -> None:
    found |= {"torch": None, "wandb": None, "numpy": None}
    named = by_name()
    assert named["torch"].fatal
    assert "pip install 'torch>=2,<3'" in (named["torch"].wrong or "")
    assert named["wandb"].wrong is not None
    assert not named["wandb"].fatal
    assert named["numpy"].fatal  # not shown where it is right


def test_version_out_of_range(found: dict[str, str | None]) -> None:
    found |= {"torch": "3.1", "numpy": "1.9"}
    named = by_name()
    for name in ("torch", "numpy"):
        assert "Type" in (named[name].wrong or "")
        assert not named[name].fatal
    assert named["timm"].wrong is None


@pytest.mark.usefixtures("found")
def test_does_not_import() -> None:
    named = by_name("torch")
    assert named["torch"] == Diagnosis("torch", "2.0  does not import", named["torch"].wrong, True)
    assert "(ImportError: cannot)" in (named["torch"].wrong or "")
    assert not by_name("wandb")["wandb"].fatal
