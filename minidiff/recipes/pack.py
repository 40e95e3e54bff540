"""Models in few files of limited size: archives of chunks named by their hash, and an index of which file is made of which.

    remake-index.zip            manifest.json, and the logs, last losses and last previews of the run
    remake-1.zip remake-2.zip   chunks of at most 4 MiB, each stored once, whatever number of models hold it
"""

from __future__ import annotations

import io
import json
import os
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from minidiff.errors import CheckpointError, require
from minidiff.files import sha256_of
from minidiff.manifest import CARD

__all__ = ["FILE_BYTES", "FILES", "Pack", "packed", "unpack_model"]

FILES, FILE_BYTES, ALL_BYTES = 7, 16 * 2**20 - 2**16, 63 * 2**20      # the device machine takes 8 files of 16 MiB, 64 MiB in all
CHUNK = 4 * 2**20
INDEX = "remake-index.zip"
_HEAD = 400             # bytes of a zip's headers for one member, at most
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_KINDS = (".json", ".safetensors", ".txt")


def _zip(members: dict[str, bytes]) -> bytes:
    """The same bytes for the same members: no dates, sorted names."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name in sorted(members):
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), members[name], zipfile.ZIP_DEFLATED, 1)
    return buffer.getvalue()


class Pack:
    """The archives in ``folder``, kept so that at any moment what lies there can be unpacked: chunks first, then the index.

    A model that no longer fits is left out, and :meth:`write` says so.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._bins: list[dict[str, bytes]] = []
        self._cost: dict[str, int] = {}
        self._written: dict[str, frozenset[str]] = {}        # which chunks are in an archive on the disk
        folder.mkdir(parents=True, exist_ok=True)

    def _price(self, mark: str, data: bytes) -> int:
        if mark not in self._cost:
            self._cost[mark] = min(len(zlib.compress(data, 1)), len(data) + 64) + _HEAD
        return self._cost[mark]

    def _place(self, chunks: dict[str, bytes], room: int) -> bool:
        """Put all the chunks into the archives, the largest first, each where it first fits; or none of them."""
        held = {mark for one in self._bins for mark in one}
        fill = [sum(self._cost[mark] for mark in one) for one in self._bins]
        plan: list[tuple[int, str]] = []
        for mark, data in sorted(chunks.items(), key=lambda item: (-self._price(*item), item[0])):
            if mark in held:
                continue
            cost = self._price(mark, data)
            at = next((i for i, used in enumerate(fill) if used + cost <= FILE_BYTES), len(fill))
            if at == len(fill):
                fill.append(0)
            fill[at] += cost
            plan.append((at, mark))
        if len(fill) > FILES - 1 or sum(fill) > room:
            return False
        for at, mark in plan:
            while len(self._bins) <= at:
                self._bins.append({})
            self._bins[at][mark] = chunks[mark]
        return True

    def write(self, out: Path, names: Sequence[str]) -> Iterator[str]:
        """Pack what a remake in ``out`` made of ``names``. Yields a sentence for each model that is left out."""
        extras = _extras(out, names)
        models, contents = {}, {}
        for name in names:
            if (out / "data" / name / "card.json").is_file():
                models[name], contents[name] = _take(out / "data" / name)
        wanted = {mark for chunks in contents.values() for mark in chunks}
        self._bins = [{mark: data for mark, data in one.items() if mark in wanted} for one in self._bins]
        index_cost = sum(len(zlib.compress(data, 1)) + _HEAD for data in extras.values()) + 2**18
        kept = {}
        for name in models:
            if self._place(contents[name], ALL_BYTES - index_cost):
                kept[name] = models[name]
            else:
                yield f"{name} does not fit into {FILES} files of {FILE_BYTES / 2**20:.1f} MiB: left out of {self.folder}"
        for i, one in enumerate(self._bins, 1):
            name = f"remake-{i}.zip"
            if self._written.get(name) != frozenset(one):
                self._put(name, _zip({f"chunks/{mark}": data for mark, data in one.items()}))
                self._written[name] = frozenset(one)
        manifest = {"format": 1, "archives": len(self._bins), "models": kept}
        self._put(INDEX, _zip({"manifest.json": (json.dumps(manifest, indent=1) + "\n").encode(), **extras}))
        for old in self.folder.glob("remake-[0-9]*.zip"):
            if not 1 <= int(old.stem[7:]) <= len(self._bins):
                old.unlink()

    def _put(self, name: str, data: bytes) -> None:
        part = self.folder / "part.tmp"
        part.write_bytes(data)
        os.replace(part, self.folder / name)


def _take(folder: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """What the index says of a model, and its chunks by hash."""
    files, chunks = {}, {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        data = path.read_bytes()
        marks = []
        for start in range(0, max(1, len(data)), CHUNK):
            part = data[start : start + CHUNK]
            marks.append(sha256_of(part))
            chunks[marks[-1]] = part
        files[path.relative_to(folder).as_posix()] = {"sha256": sha256_of(data), "chunks": marks}
    return files, chunks


def _extras(out: Path, names: Sequence[str]) -> dict[str, bytes]:
    """How the jobs ended, the ends of their logs, losses thinned to 2,000 numbers, and the last preview of each, in 8 MiB."""
    from minidiff.train import read_losses

    found: dict[str, bytes] = {}
    for name in names:
        flat, run = name.replace("/", "-"), out / "runs" / name
        for kind, path in (("jobs", out / "jobs" / f"{name}.json"), ("logs", out / "logs" / f"{name}.log")):
            if path.is_file():
                found[f"{kind}/{flat}{path.suffix}"] = path.read_bytes()[-2**16:]
        try:
            losses = read_losses(run)
        except CheckpointError:  # a damaged file must not cost the models
            continue
        if len(losses):
            every = -(-len(losses) // 2000)
            text = "\n".join(f"{i * every},{part.nanmean():.6g}" for i, part in enumerate(losses.split(every)))
            found[f"losses/{flat}.csv"] = f"step,loss\n{text}\n".encode()
    left = 8 * 2**20 - sum(map(len, found.values()))
    for name in names:
        for picture in sorted((out / "runs" / name / "previews").glob("*.png"))[-1:]:
            if (data := picture.read_bytes()) and len(data) <= left:
                left -= len(data)
                found[f"previews/{name.replace('/', '-')}.png"] = data
    return found


def _refuse(folder: Path, what: str) -> CheckpointError:
    return CheckpointError("DIR", f"{str(folder)!r}, {what}", "the archives as minidiff remake --pack wrote them")


def _read(folder: Path, name: str, member: str, limit: int) -> bytes:
    """One member of an archive, at most ``limit`` bytes; nothing is ever extracted to a place that an archive names."""
    try:
        with zipfile.ZipFile(folder / name) as archive:
            size = archive.getinfo(member).file_size
            require(size <= limit, "DIR", f"{member} in {name}, of {size:,} bytes", f"at most {limit:,} bytes")
            return archive.read(member)
    except FileNotFoundError:
        raise _refuse(folder, f"without {name}") from None
    except KeyError:
        raise _refuse(folder, f"whose {name} has no {member}") from None
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, RuntimeError) as error:
        raise _refuse(folder, f"whose {name} cannot be read ({error})") from None


def packed(folder: str | Path) -> dict[str, dict[str, Any]]:
    """The models in the archives of ``folder``: {name: {file: {"sha256", "chunks"}}}. CheckpointError for anything not ours."""
    folder = Path(folder)
    require(folder.is_dir(), "DIR", repr(str(folder)), "a folder that minidiff remake --pack wrote")
    try:
        manifest = json.loads(_read(folder, INDEX, "manifest.json", 2**24))
        require(manifest["format"] == 1, "DIR", f"a pack of format {manifest['format']}", "format 1")
        for name, files in manifest["models"].items():
            for path in (name, *files):
                if not all(map(_PART.fullmatch, path.split("/"))):
                    raise _refuse(folder, f"which names the path {path!r}")
            if CARD not in files or any(PurePosixPath(f).suffix not in _KINDS for f in files):
                raise _refuse(folder, f"where {name} is not a model: {', '.join(files)}")
        return manifest["models"]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise _refuse(folder, f"whose manifest is not ours ({error})") from None


def unpack_model(folder: str | Path, name: str, into: Path) -> None:
    """Write the packed model ``name`` as the new folder ``into``, every hash checked, those on its card too."""
    folder, files = Path(folder), packed(folder)[name]
    homes = {}
    for archive in sorted(folder.glob("remake-[0-9]*.zip")):
        try:
            with zipfile.ZipFile(archive) as opened:
                homes |= {info.filename: archive.name for info in opened.infolist()}
        except (zipfile.BadZipFile, OSError) as error:
            raise _refuse(folder, f"whose {archive.name} cannot be read ({error})") from None
    whole = {}
    for path, facts in files.items():
        parts = []
        for mark in facts["chunks"]:
            member = f"chunks/{mark}"
            if member not in homes:
                raise _refuse(folder, f"where a part of {name}/{path} is missing")
            parts.append(_read(folder, homes[member], member, CHUNK))
        whole[path] = b"".join(parts)
        if sha256_of(whole[path]) != facts["sha256"]:
            raise _refuse(folder, f"where {name}/{path} was changed")
    try:
        promised = json.loads(whole[CARD])["sha256"]
    except (KeyError, TypeError, ValueError) as error:
        raise _refuse(folder, f"where the card of {name} cannot be read ({error})") from None
    if promised != {path: sha256_of(data) for path, data in whole.items() if path != CARD}:
        raise _refuse(folder, f"where the files of {name} differ from the hashes on its card")
    for path, data in whole.items():
        target = into / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
