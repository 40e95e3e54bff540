"""Your own pictures as training data: a folder in the Hugging Face imagefolder layout.

    pictures/cat.png
    pictures/holiday/dog.jpg
    pictures/metadata.jsonl      optional; one {"file_name": "cat.png", "text": "a cat on a sofa"} a line
"""

from __future__ import annotations

import functools
import json
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from minidiff.errors import BadInput, require
from minidiff.rng import generator

__all__ = ["ImageFolder"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
_KEEP_BYTES = 1 << 30       # pictures are held in memory up to this size, and read again each time beyond it


class ImageFolder:
    """All the pictures under ``path``, each cropped to its middle square and shrunk to ``size`` x ``size``.

    path: folder, searched with its subfolders (hidden files are left out). size: pixels along one side. channels: 3, or
    1 for grey. seed: the order; every epoch has its own. ``files`` are the pictures in the order of their names;
    ``captions`` their captions ("" where metadata.jsonl has none), or None when there is no metadata.jsonl.

    Every picture is opened once here, so that nothing fails half-way through a training run. Raises BadInput for a missing
    or empty folder, for pictures that cannot be read (by name), and for metadata that is not right (by line).
    """

    def __init__(self, path: str | Path, *, size: int = 32, seed: int = 0, channels: int = 3) -> None:
        require(isinstance(path, (str, Path)), "path", type(path).__name__, "a folder of images", "ImageFolder('pictures')")
        require(isinstance(size, int) and not isinstance(size, bool) and size >= 1, "size", repr(size),
                "a whole number of pixels", "size=32")
        require(channels in (1, 3), "channels", repr(channels), "3 for colour or 1 for grey", "channels=3")
        require(isinstance(seed, int), "seed", repr(seed), "a whole number", "seed=0")
        self.path, self.size, self.seed, self.channels = Path(path).expanduser(), size, seed, channels
        require(self.path.exists(), "path", f"{str(path)!r}, which does not exist", "a folder of images",
                f"an existing folder; here is {str(Path.cwd())!r}")
        require(self.path.is_dir(), "path", f"{str(path)!r}, which is a file", "a folder of images",
                f"ImageFolder({str(self.path.parent)!r})")
        found = [p.relative_to(self.path) for p in self.path.rglob("*")]
        names = sorted(p.as_posix() for p in found if not any(part.startswith(".") for part in p.parts))
        self.files = [n for n in names if n.lower().endswith(SUFFIXES) and (self.path / n).is_file()]
        require(len(self.files) > 0, "path", f"{str(path)!r}, with {len(names)} files but no image", "at least one image "
                f"({', '.join(SUFFIXES)})")
        tables = [n for n in names if n.rsplit("/", 1)[-1] == "metadata.jsonl"]
        self.captions = self._captions(tables) if tables else None
        self._kept = self._read_all()

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
            require(isinstance(value, int) and value >= low, name, repr(value), f"a whole number from {low} on")
        rows = [self._order(number // len(self))[number % len(self)] for number in range(i * n, (i + 1) * n)]
        pictures = torch.stack([self._picture(row) if self._kept is None else self._kept[row] for row in rows])
        captions = None if self.captions is None else [self.captions[row] for row in rows]
        return pictures.to(device).float() / 127.5 - 1, captions

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

    def _captions(self, tables: list[str]) -> list[str]:
        """One caption for each file, from every metadata.jsonl; file names count from the folder of their table."""
        positions = {name: k for k, name in enumerate(self.files)}
        captions = [""] * len(self.files)
        seen: set[str] = set()
        for table in tables:
            for where, entry in _lines(self.path / table):
                name = entry.get("file_name")
                require(isinstance(name, str) and name != "", "metadata.jsonl", f"no file_name in {where}",
                        "an object with file_name and text", '{"file_name": "cat.png", "text": "a cat"}')
                text = entry.get("text", entry.get("caption", ""))
                text = "" if text is None else text
                require(isinstance(text, str), "metadata.jsonl", f"a text of type {type(text).__name__} in {where}", "a string")
                full = (Path(table).parent / name).as_posix()
                require(full in positions, "metadata.jsonl", f"{name!r} in {where}, which is not among the images",
                        f"one of the {len(self.files)} images under {self.path}", "the right name, or take the line out")
                require(full not in seen, "metadata.jsonl", f"{name!r} a second time in {where}", "one line for each image")
                seen.add(full)
                captions[positions[full]] = text
        return captions


def _lines(path: Path) -> Iterator[tuple[str, dict]]:
    """(where, entry) of each line that is not empty."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput("metadata.jsonl", f"{path}: {error}", "a text file in UTF-8") from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                entry = json.loads(line)
            except ValueError as error:
                entry = str(error)
            require(isinstance(entry, dict), "metadata.jsonl", f"line {number} of {path}: {line.strip()[:60]!r} ({_kind(entry)})",
                    "one JSON object a line", '{"file_name": "cat.png", "text": "a cat"}')
            yield f"line {number} of {path}", entry


def _kind(entry: object) -> str:
    return entry if isinstance(entry, str) else f"a JSON {type(entry).__name__}"


def read_image(path: str | Path, *, size: int, channels: int = 3) -> Tensor:
    """One picture as (channels, size, size) uint8: turned upright (EXIF), laid on white where it is transparent, its middle
    square averaged down to ``size`` pixels. Of an animation, the first frame. Raises BadInput naming the file."""
    import numpy as np
    from PIL import Image, ImageOps

    path = Path(path)
    got = f"{str(path)!r}, which cannot be read as an image"
    try:
        if path.stat().st_size == 0:
            raise OSError("the file is empty")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as opened:
                picture = _eight_bit(ImageOps.exif_transpose(opened))
        if "A" in picture.mode or "transparency" in picture.info:
            picture = picture.convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, (255, 255, 255, 255)), picture)
        pixels = np.array(picture.convert("RGB" if channels == 3 else "L"))
    except Exception as error:  # Pillow raises many kinds for broken files
        raise BadInput("path", f"{got} ({error})", "an image file that is whole", "a fresh copy of it, or take it away") from None
    return area_square(torch.from_numpy(pixels.reshape(*pixels.shape[:2], channels)).permute(2, 0, 1), size)


def _eight_bit(picture):  # noqa: ANN001, ANN202  Pillow is imported late
    """Sixteen-bit and floating point greys scaled to eight bits; everything else unchanged."""
    if picture.mode not in ("I", "F") and not picture.mode.startswith("I;16"):
        return picture
    import numpy as np
    from PIL import Image
    values = np.asarray(picture, dtype=np.float64)
    top = 65535.0 if picture.mode != "F" else (1.0 if values.max() <= 1 else 255.0)
    return Image.fromarray((values / top * 255).round().clip(0, 255).astype(np.uint8))


def area_square(pixels: Tensor, size: int) -> Tensor:
    """The middle square of (C, H, W) uint8, averaged over the exact area of each of size x size pixels -> uint8."""
    height, width = pixels.shape[1:]
    side = min(height, width)
    rows, columns = (_shares(n, side, size) for n in (height, width))
    return (rows @ pixels.float() @ columns.T).round().clamp(0, 255).to(torch.uint8)


def _shares(n: int, side: int, size: int) -> Tensor:
    """(size, n): how much of each new pixel comes from each old one, when ``side`` of n pixels in the middle are kept."""
    edges = (n - side) / 2 + torch.arange(size + 1, dtype=torch.float64) * side / size
    old = torch.arange(n, dtype=torch.float64)
    overlap = torch.minimum(edges[1:, None], old + 1) - torch.maximum(edges[:-1, None], old)
    return (overlap.clamp(min=0) * size / side).float()
