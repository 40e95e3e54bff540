"""Where files lie, how they reach the disk (so that nothing is lost or left half-written), and their hashes."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

__all__ = ["data_folder", "remove_folder", "replace", "replace_folder", "sha256", "sha256_of", "sync_folder", "write_file"]


def replace(path: str | Path, content: str | bytes) -> None:
    """Write ``content`` to ``path``; a reader, or a crash, finds the old file or the new one and nothing between.

    Text is written as UTF-8 with plain line feeds. A new file gets the usual permissions, an old one keeps its own.
    Raises OSError if the folder is missing, full or cannot be written; ``path`` is then as it was.
    """
    path = Path(path)
    mask = os.umask(0)
    os.umask(mask)
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~mask
    name = None
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-", suffix=".tmp")
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, mode)
        os.replace(name, path)
    except BaseException as error:
        if name is not None:
            os.unlink(name)
        if isinstance(error, OSError) and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from None    # name the file, not its temporary twin
        raise


def write_file(path: Path, data: bytes) -> None:
    """Write and fsync; the name itself is safe only after :func:`sync_folder`."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut (Windows has no such call and needs none)."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_folder(folder: Path) -> None:
    """Remove a folder so that a kill half-way leaves only something that is called .tmp."""
    if folder.suffix != ".tmp":
        doomed = folder.with_name(folder.name + ".old.tmp")
        shutil.rmtree(doomed, ignore_errors=True)
        os.rename(folder, doomed)
        folder = doomed
    shutil.rmtree(folder, ignore_errors=True)


def replace_folder(fresh: Path, folder: Path) -> None:
    """Put the finished folder ``fresh``, on the same disk, where ``folder`` is or will be; an older one is replaced whole."""
    old = folder.with_name(f".{folder.name}.old.tmp")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(fresh, folder)
    shutil.rmtree(old, ignore_errors=True)


def data_folder() -> Path:
    """Where the shipped models lie: the folder named by MINIDIFF_DATA, else ``data`` beside the package's checkout."""
    return Path(os.environ.get("MINIDIFF_DATA") or Path(__file__).resolve().parents[1] / "data")


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file's bytes, as 64 hexadecimal digits. Raises OSError if it cannot be read."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of(data: bytes) -> str:
    """The SHA-256 of bytes, as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()
