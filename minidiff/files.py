"""Where files lie, how they reach the disk (so that nothing is lost or left half-written), and their hashes."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import tempfile
from pathlib import Path

__all__ = ["data_folder", "read_plain", "remove_folder", "replace", "replace_folder", "sha256", "sha256_of", "sync_folder",
           "write_file"]


def replace(path: str | Path, content: str | bytes) -> None:
    """Write ``content`` to ``path``; a reader, or a crash, finds the old file or the new one and nothing between.

    Text is written as UTF-8 with plain line feeds. A new file gets the usual permissions, an old one keeps its own. A link is
    followed: what it points to is replaced. A device or a pipe such as /dev/stdout is written to, not replaced.
    Raises OSError if the folder is missing, full or cannot be written; ``path`` is then as it was.
    """
    data = content.encode() if isinstance(content, str) else content
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file() and not path.is_dir():
        return _write_through(path, data)
    mask = os.umask(0)
    os.umask(mask)
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~mask
    name = None
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-", suffix=".tmp")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
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


def _write_through(path: Path, data: bytes) -> None:
    """Write to a pipe, a socket or a device; a pipe that nobody reads is an OSError at once, where open() would wait."""
    handle = os.open(path, os.O_WRONLY | getattr(os, "O_NONBLOCK", 0))
    os.set_blocking(handle, True)
    with os.fdopen(handle, "wb") as file:
        file.write(data)


def read_plain(path: str | Path) -> bytes:
    """The bytes of a plain file. OSError for anything else: to read from a pipe or a device is to wait, perhaps for ever."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "not a plain file", str(path))
        return file.read()


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
    """Where the shipped models lie: the folder named by MINIDIFF_DATA, else ``data`` beside the package in a checkout, or in the
    package where it was installed from a wheel, which brings the models of the README's first lines.
    """
    package = Path(__file__).resolve().parent
    ours = package.parent / "data" if (package.parent / "pyproject.toml").is_file() else package / "data"
    return Path(os.environ.get("MINIDIFF_DATA") or ours)


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file's bytes, as 64 hexadecimal digits. Raises OSError if it cannot be read."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of(data: bytes) -> str:
    """The SHA-256 of bytes, as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()
