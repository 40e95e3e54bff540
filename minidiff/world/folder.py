"""Your own pictures as training data: a folder in the Hugging Face imagefolder layout.

    pictures/cat.png
    pictures/holiday/dog.jpg
    pictures/metadata.jsonl      optional; one {"file_name": "cat.png", "text": "a cat on a sofa"} a line
    pictures/metadata.csv        the same as a table with a head; or cat.txt beside cat.png with its caption
"""

from __future__ import annotations

import functools
import hashlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minidiff.errors import BadInput, check_choice, require
from minidiff.rng import generator
from minidiff.world.caption_files import TABLES, captions_of, one_form
from minidiff.world.picture_file import read_image

__all__ = ["ImageFolder"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
_SPLITS = ("all", "train", "valid", "test")
_KEEP_BYTES = 1 << 30       # pictures are held in memory up to this size, and read again each time beyond it


class ImageFolder:
    """All the pictures under ``path``, each cropped to its middle square and shrunk to ``size`` x ``size``.

    path: folder, searched with its subfolders (hidden files are left out). size: pixels along one side. channels: 3, or
    1 for grey. seed: the order; every epoch has its own. split: "all"; or "train", "valid" and "test", about 8, 1 and 1 of ten,
    chosen by the hash of a picture's name. caption_column: of the metadata, where captions are not in "text" or "caption".
    ``files`` are the pictures in the order of their names; ``captions`` their captions ("" where there is none), or None
    when nothing beside the pictures holds captions. log: told, in a sentence each, what is left out: files of other kinds,
    folders that are links, metadata without captions.

    Every picture is opened once here, so that nothing fails half-way through a training run. Raises BadInput for a missing
    or empty folder, for pictures that cannot be read (by name), and for metadata that is not right (by line).
    """

    def __init__(self, path: str | Path, *, size: int = 32, seed: int = 0, channels: int = 3, split: str = "all",
                 caption_column: str | None = None, log: Callable[[str], None] = print) -> None:
        require(isinstance(path, (str, Path)), "path", type(path).__name__, "a folder of images", "ImageFolder('pictures')")
        whole = isinstance(size, int) and not isinstance(size, bool) and 1 <= size <= 4096
        require(whole, "size", repr(size), "a whole number of pixels, 1 to 4096", "size=32")
        require(channels in (1, 3) and not isinstance(channels, bool), "channels", repr(channels), "3 for colour or 1 for grey",
                "channels=3")
        require(isinstance(seed, int) and not isinstance(seed, bool), "seed", repr(seed), "a whole number", "seed=0")
        named = caption_column is None or isinstance(caption_column, str)
        require(named, "caption_column", repr(caption_column), "the name of a column, or None")
        check_choice("split", split, _SPLITS)
        self.path, self.size, self.seed, self.channels, self.split = Path(path).expanduser(), size, seed, channels, split
        require(self.path.exists(), "path", f"{str(path)!r}, which does not exist", "a folder of images",
                f"an existing folder; here is {str(Path.cwd())!r}")
        require(self.path.is_dir(), "path", f"{str(path)!r}, which is a file", "a folder of images",
                f"ImageFolder({str(self.path.parent)!r})")
        found = [p.relative_to(self.path) for p in self.path.rglob("*")]
        names = sorted(p.as_posix() for p in found if not any(part.startswith(".") for part in p.parts))
        pictures = [n for n in names if n.lower().endswith(SUFFIXES) and (self.path / n).is_file()]
        require(len(pictures) > 0, "path", f"{str(path)!r}, with {len(names)} files but no image", "at least one image "
                f"({', '.join(SUFFIXES)})")
        captions = captions_of(self.path, pictures, names, column=caption_column, log=log)
        rows = [k for k, name in enumerate(pictures) if split in ("all", _split(name))]
        require(len(rows) > 0, "split", f"{split!r}, with none of {len(pictures)} images", "more images, or split='all'")
        self.files = [pictures[k] for k in rows]
        self.captions = None if captions is None else [captions[k] for k in rows]
        self._kept = self._read_all()
        _say_left_out(self.path, names, pictures, log)

    def __len__(self) -> int:
        return len(self.files)

    def __repr__(self) -> str:
        captioned = "without captions" if self.captions is None else f"{sum(map(bool, self.captions))} with captions"
        return f"ImageFolder({str(self.path)!r}: {len(self)} images, {captioned}, {self.channels} x {self.size} x {self.size})"

    def batch(self, i: int, n: int, device: torch.device | str = "cpu") -> tuple[Tensor, list[str] | None]:
        """Batch i of n samples: images (n, channels, size, size) float32 in [-1, 1], and their captions or None.

        Row j is sample number i * n + j. Each epoch of len(self) samples shows every picture once, in an order that is a
        pure function of (seed, epoch).
        """
        for name, value, low in (("i", i, 0), ("n", n, 1)):
            require(isinstance(value, int) and not isinstance(value, bool) and value >= low, name, repr(value),
                    f"a whole number from {low} on")
        pictures, captions = self._samples(range(i * n, (i + 1) * n))
        return pictures.to(device), captions

    def images(self, n: int, start: int = 0, chunk: int = 512) -> Tensor:
        """Pictures of samples number ``start`` to ``start + n - 1`` on the CPU, in the order of :meth:`batch`, as WorldData has
        them: (n, channels, size, size) float32 in [-1, 1]. After len(self) samples the pictures come again in another order."""
        for name, value, low in (("n", n, 1), ("start", start, 0), ("chunk", chunk, 1)):
            require(isinstance(value, int) and not isinstance(value, bool) and value >= low, name, repr(value),
                    f"a whole number from {low} on")
        return self._samples(range(start, start + n))[0]

    @functools.cached_property
    def identity(self) -> dict[str, Any]:
        """What makes these pictures the ones they are, as JSON values; a run is resumed only with the same."""
        made = hashlib.sha256("\n".join(map(one_form, self.files)).encode())
        if self._kept is not None:
            made.update(self._kept.numpy().tobytes())
        else:
            made.update(repr([(self.path / name).stat().st_size for name in self.files]).encode())
        made.update("\n".join(self.captions or ()).encode())
        return {"pictures": len(self), "sha256": made.hexdigest()[:16], "size": self.size, "channels": self.channels,
                "split": self.split, "seed": self.seed}

    def _samples(self, numbers: range) -> tuple[Tensor, list[str] | None]:
        rows = [self._order(number // len(self))[number % len(self)] for number in numbers]
        pictures = torch.stack([self._picture(row) if self._kept is None else self._kept[row] for row in rows])
        return pictures.float() / 127.5 - 1, None if self.captions is None else [self.captions[row] for row in rows]

    @functools.lru_cache(maxsize=2)  # noqa: B019  the folder lives as long as its run
    def _order(self, epoch: int) -> list[int]:
        return torch.randperm(len(self), generator=generator("folder", self.seed, epoch)).tolist()

    def _picture(self, row: int) -> Tensor:
        return read_image(self.path / self.files[row], size=self.size, channels=self.channels)

    def _read_all(self) -> Tensor | None:
        """All pictures (N, channels, size, size) uint8, or None when they are too many to hold."""
        keep = len(self) * self.channels * self.size**2 <= _KEEP_BYTES
        bad: list[BadInput] = []

        def load(row: int) -> Tensor | None:
            try:
                picture = self._picture(row)
                return picture if keep else None
            except BadInput as error:
                bad.append(error)
                return None

        with ThreadPoolExecutor(min(8, torch.get_num_threads())) as pool:
            pictures = list(pool.map(load, range(len(self))))
        if bad:
            first = min(bad, key=lambda error: str(error.got))
            more = f" (and {len(bad) - 1} more such files)" if len(bad) > 1 else ""
            raise BadInput("path", f"{first.got}{more}", first.expected, first.instead)
        return torch.stack(pictures) if keep else None  # type: ignore[arg-type]


def _split(name: str) -> str:
    """The split that a picture belongs to, whatever else is in the folder."""
    tenth = int.from_bytes(hashlib.sha256(one_form(name).encode()).digest()[:4], "big") % 10
    return {8: "valid", 9: "test"}.get(tenth, "train")


def _say_left_out(path: Path, names: list[str], pictures: list[str], log: Callable[[str], None]) -> None:
    """One sentence for files that are not read, one for folders that are links."""
    taken = set(pictures) | {name for name in names if name.rsplit("/", 1)[-1] in TABLES}
    stems = {name.rsplit(".", 1)[0] for name in pictures}
    taken |= {name for name in names if name.lower().endswith(".txt") and name.rsplit(".", 1)[0] in stems}
    rest = [name for name in names if name not in taken]
    links = [name for name in rest if (path / name).is_symlink() and (path / name).is_dir()]
    other = Counter(Path(name).suffix.lower() or "without a suffix" for name in rest if not (path / name).is_dir())
    if other:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(other.items()))
        log(f"{path}: left out {kinds}; read are {', '.join(SUFFIXES)}.")
    if links:
        log(f"{path}: left out {', '.join(links)}, which {'is a link' if len(links) == 1 else 'are links'} to another folder.")
