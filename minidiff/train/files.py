"""Files that are whole or absent: writing with fsync, folders that appear at once, a lock that dies with its process."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from minidiff.errors import CheckpointError

__all__ = ["sha256", "write_file", "sync_folder", "remove_folder", "disk", "Lock"]


def sha256(data: bytes) -> str:
    """The SHA-256 of bytes in memory, as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut (Windows has no such call and needs none)."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_file(path: Path, data: bytes) -> None:
    """Write and fsync; the name itself is safe only after :func:`sync_folder`."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def remove_folder(folder: Path) -> None:
    """Remove a folder so that a kill half-way leaves only something that is called .tmp."""
    if folder.suffix != ".tmp":
        doomed = folder.with_name(folder.name + ".old.tmp")
        shutil.rmtree(doomed, ignore_errors=True)
        os.rename(folder, doomed)
        folder = doomed
    shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def disk(out: Path, kept: Callable[[], str]) -> Iterator[None]:
    """Turn a failure to write into an error that says what to do; ``kept`` says what is still there."""
    try:
        yield
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            want, instead = "room on the disk", f"free some room, then run the same command again ({kept()})"
        else:
            want, instead = "a folder that can be written", f"out='another/folder', or change its permissions ({kept()})"
        raise CheckpointError("out", f"{str(out)!r}, where writing failed with: {why}", want, instead) from error


class Lock:
    """One run a folder. The system lets go of the lock when the process ends, however it ends."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / ".lock"
        self._file: IO[bytes] | None = open(self.path, "ab")  # noqa: SIM115 (held until release)
        try:
            _lock(self._file)
        except OSError as error:
            self.release()
            if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
                raise CheckpointError("out", f"{str(folder)!r}, where another run is writing now", "a folder for this run alone",
                                      "wait for the other run to end, or out='another/folder'") from None
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise
            # A file system without locks (some network disks): go on without one.

    def release(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _lock(file: IO[bytes]) -> None:
    if os.name == "nt":
        import msvcrt

        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
