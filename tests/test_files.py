"""A file is replaced whole or not at all."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from minidiff.files import data_folder, replace, sha256


def test_replace_writes_text_and_bytes_and_leaves_nothing_else(tmp_path: Path) -> None:
    replace(tmp_path / "a.txt", "grün\n")
    replace(tmp_path / "b.bin", b"\x00\xff")
    assert (tmp_path / "a.txt").read_bytes() == "grün\n".encode()
    assert (tmp_path / "b.bin").read_bytes() == b"\x00\xff"
    assert sorted(os.listdir(tmp_path)) == ["a.txt", "b.bin"]


def test_permissions_are_kept_and_new_files_get_the_usual_ones(tmp_path: Path) -> None:
    old, usual = tmp_path / "old", tmp_path / "usual"
    old.write_text("x")
    old.chmod(0o640)
    usual.write_text("x")
    replace(old, "y")
    replace(tmp_path / "new", "y")
    assert old.stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "new").stat().st_mode == usual.stat().st_mode


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_crash_while_writing_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    path = tmp_path / "kept.txt"
    path.write_text("precious")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="No space left"):
        replace(path, "half")
    assert path.read_text() == "precious" and os.listdir(tmp_path) == ["kept.txt"]


def test_a_missing_folder_is_named_with_the_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        replace(tmp_path / "no/where.png", b"")
    assert caught.value.filename == str(tmp_path / "no/where.png")


def test_sha256_is_the_hash_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256(tmp_path / "x") == hashlib.sha256(b"abc").hexdigest()
    assert sha256(tmp_path / "x").startswith("ba7816bf")                  # FIPS 180-2, the first example


def test_data_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, root: Path) -> None:
    monkeypatch.setenv("MINIDIFF_DATA", str(tmp_path))
    assert data_folder() == tmp_path
    monkeypatch.delenv("MINIDIFF_DATA")
    assert data_folder() == root / "data"
