"""The doctor finds each fault that is planted, names its remedy, and stays silent where nothing is wrong."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

from minidiff import doctor
from minidiff.cli import main
from minidiff.manifest import write_card

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with two models as their cards say, one of them a level deeper."""
    monkeypatch.setenv("MINIDIFF_DATA", str(tmp_path / "data"))
    for name in ("pixel-ddpm", "readers/final"):
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(name.encode() * 100)
        write_card(folder, {"name": name})
    return tmp_path / "data"


def broken() -> list[doctor.Finding]:
    return [finding for _, finding in doctor.examine() if finding.state == "broken"]


def test_a_healthy_machine_ends_in_zero(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert broken() == []
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "All is well." in said and "torch 2." in said and "CPU:" in said
    assert "ok      pixel-ddpm" in said and "ok      readers/final" in said


def flip(data: Path) -> None:
    path = data / "pixel-ddpm/model.safetensors"
    content = bytearray(path.read_bytes())
    content[50] ^= 1
    path.write_bytes(content)


FAULTS = {
    "one bit": (flip, "pixel-ddpm: model.safetensors has changed"),
    "lost weights": (lambda d: (d / "readers/final/model.safetensors").unlink(), "readers/final: model.safetensors is missing"),
    "no card": (lambda d: (d / "pixel-ddpm/card.json").unlink(), "pixel-ddpm: no card.json"),
    "half a card": (lambda d: (d / "pixel-ddpm/card.json").write_text("{"), "card.json cannot be used (JSONDecodeError"),
    "a foreign card": (lambda d: (d / "pixel-ddpm/card.json").write_text("[1]"), "card.json cannot be used (TypeError"),
    "a card without hashes": (lambda d: (d / "pixel-ddpm/card.json").write_text("{}"), "card.json cannot be used (KeyError"),
    "a stranger": (lambda d: (d / "pixel-ddpm/more.safetensors").write_bytes(b""), "more.safetensors is not on the card"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found_alone_with_its_remedy(data: Path, fault: str, capsys: pytest.CaptureFixture[str]) -> None:
    plant, said = FAULTS[fault]
    plant(data)
    found = broken()
    assert len(found) == 1 and said in found[0].text and "git checkout -- " in found[0].mend
    assert ("git clean" in found[0].mend) == (fault == "a stranger"), "what git does not know a checkout does not remove"
    assert main(["doctor"]) == 1
    assert "1 broken" in capsys.readouterr().out


def test_an_empty_or_missing_folder_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINIDIFF_DATA", str(tmp_path))
    assert "holds no model" in broken()[0].text
    monkeypatch.setenv("MINIDIFF_DATA", str(tmp_path / "none"))
    assert "no folder" in broken()[0].text and "MINIDIFF_DATA" in broken()[0].mend


def test_what_git_has_and_the_disk_has_not_is_named(data: Path) -> None:
    for command in (["init", "-q"], ["add", "-A"]):
        subprocess.run(["git", *command], cwd=data, check=True)
    assert broken() == []
    for path in (data / "readers/final").iterdir():
        path.unlink()
    assert {finding.text for finding in broken()} == {"readers/final/card.json has been deleted",
                                                      "readers/final/model.safetensors has been deleted"}


def test_packages_missing_or_old(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name in ("einops", "jupyterlab"):
            raise importlib.metadata.PackageNotFoundError(name)
        return {"safetensors": "0.7.9", "numpy": "10.0.1rc1", "torch": "2.13.0+cpu"}.get(name) or real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    states = {finding.text.split()[0]: finding for _, finding in doctor.examine()}
    assert states["einops"].state == "broken" and "pip install" in states["einops"].mend
    assert states["safetensors"].state == "broken" and "0.7.9 does not do; it must be >=0.8" in states["safetensors"].text
    assert states["jupyterlab"].state == "note" and ".[notebooks]" in states["jupyterlab"].mend
    assert states["numpy"].state == states["torch"].state == "ok"


def test_without_packaging_the_doctor_still_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert [(f.state, f.mend.split()[:2]) for f in broken()] == [("broken", ["pip", "install"])]


def test_a_torch_that_does_not_import_is_one_finding_among_the_others(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    found = broken()
    assert len(found) == 1 and found[0].text.startswith("torch does not import")


@pytest.mark.parametrize(("version", "state"), [((3, 10, 9), "broken"), ((3, 11, 0), "ok"), ((3, 13, 5), "ok"),
                                                ((3, 14, 0), "broken")])
def test_the_range_of_pythons(monkeypatch: pytest.MonkeyPatch, version: tuple[int, ...], state: str) -> None:
    monkeypatch.setattr(sys, "version_info", version)
    assert doctor._python(">=3.11,<3.14").state == state
    assert doctor._python("<3.14,>=3.11").state == state


def test_requirements_are_known_without_the_checkout_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import email.message
    meta = email.message.Message()
    meta["Requires-Python"] = ">=3.11,<3.14"
    for extra in ("notebooks", "test"):
        meta["Provides-Extra"] = extra
    for line in ("torch>=2.6", "jupyterlab>=4.2; extra == 'notebooks'", "pytest>=8.2; extra == 'test'"):
        meta["Requires-Dist"] = line
    monkeypatch.setattr(doctor, "ROOT", tmp_path)
    monkeypatch.setattr(importlib.metadata, "metadata", lambda _: meta)
    groups = {"core": ["torch>=2.6"], "notebooks": ["jupyterlab>=4.2"], "test": ["pytest>=8.2"]}
    assert doctor._requirements() == (">=3.11,<3.14", groups)


def test_the_shipped_models_are_as_their_cards_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MINIDIFF_DATA", raising=False)
    assert [finding for finding in doctor._models() if finding.state == "broken"] == []
