"""The panels of lesson 07: one cell of a latent moved by hand, and autoencoders side by side.

Each ``render`` is a pure function of the knobs and gives pixels and a line of text.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minidiff.errors import check_choice, check_images, require
from minidiff.latent.autoencoder import decode, encode
from minidiff.measure import Reader, read
from minidiff.show.tiles import lay_out, pixels
from minidiff.world import COLOUR_NAMES, KINDS, PATTERNS, Scenes

__all__ = ["Chooser", "LatentExplorer", "caption_of"]


def _difference(a: Tensor, b: Tensor, gain: float) -> Tensor:
    """Where two pictures (B, 3, H, W) differ, as a grey picture: black where they agree, white from 2 / gain on."""
    return (gain * (a - b).abs().mean(1, keepdim=True)).expand(-1, 3, -1, -1).clamp(0, 2) - 1


def caption_of(scenes: Scenes, i: int) -> str:
    """What picture i of a reading shows, in words: "red striped cat, blue house"."""
    words = []
    for j in torch.nonzero(scenes.present[i]).flatten().tolist():
        pattern = PATTERNS[int(scenes.pattern[i, j])]
        words.append(" ".join([COLOUR_NAMES[int(scenes.colour[i, j])], *([pattern] if pattern != "plain" else []),
                               KINDS[int(scenes.kind[i, j])]]))
    return ", ".join(words) or "nothing"


class LatentExplorer:
    """Move one number of a picture's latent and see what the decoder makes of it.

    image: (1, 3, H, W) in [-1, 1]. amount: in units of the scaled latent, whose standard deviation over many pictures is 1.
    """

    def __init__(self, vae: nn.Module, image: Tensor) -> None:
        check_images("image", image, channels=3)
        require(len(image) == 1, "image", f"{len(image)} pictures", "one picture (1, 3, H, W)", "images[:1]")
        self.vae = vae
        self.z = encode(vae, image)
        with torch.no_grad():
            self.before = decode(vae, self.z)
        self.f = image.shape[-1] // self.z.shape[-1]

    def edited(self, *, channel: int, row: int, column: int, amount: float) -> Tensor:
        """The decode (1, 3, H, W) after z[channel, row, column] has moved by ``amount``; nothing is clipped."""
        for name, value, size in zip(("channel", "row", "column"), (channel, row, column), self.z.shape[1:], strict=True):
            require(isinstance(value, int) and 0 <= value < size, name, value, f"a whole number from 0 to {size - 1}")
        z = self.z.clone()
        z[0, channel, row, column] += amount
        with torch.no_grad():
            return decode(self.vae, z)

    def shares(self, after: Tensor, row: int, column: int) -> tuple[float, float]:
        """Of the squared change: the share in the cell's own f x f pixels, and in that patch with one cell around it."""
        change = F.avg_pool2d((after - self.before).square().mean(1), self.f)[0]
        change = change / change.sum().clamp(min=1e-12)
        near = change[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
        return float(change[row, column]), float(near.sum())

    def render(self, *, channel: int, row: int, column: int, amount: float) -> tuple[np.ndarray, str]:
        """Before, after, and what changed (five times as bright)."""
        after = self.edited(channel=channel, row=row, column=column, amount=amount)
        shown = torch.cat([self.before, after, _difference(self.before, after, 5.0)])
        array = lay_out([pixels(shown)], 3, column_labels=["decoded", "one number moved", "what changed (× 5)"])
        where = f"channel {channel}, row {row}, column {column}, moved by {amount:+.1f}"
        if amount == 0:
            return array, f"{where}: nothing changes"
        own, near = self.shares(after, row, column)
        return array, (f"{where}: {100 * own:.0f} % of the change in its own {self.f} x {self.f} pixels, "
                       f"{100 * near:.0f} % within one cell of it")


class Chooser:
    """The same pictures after a round trip through several autoencoders, computed beforehand.

    trips: name -> (B, 3, H, W). The line of text says the fidelity, and what the reader reads before and after.
    """

    def __init__(self, images: Tensor, trips: Mapping[str, Tensor], reader: Reader) -> None:
        require(len(trips) > 0 and all(t.shape == images.shape for t in trips.values()), "trips",
                f"{ {k: tuple(t.shape) for k, t in trips.items()} }", f"name -> pictures of shape {tuple(images.shape)}")
        self.names, self._trips, self._images = tuple(trips), dict(trips), images
        self._said = {name: read(x, reader).scenes for name, x in {"": images, **trips}.items()}

    def render(self, *, picture: int, autoencoder: str) -> tuple[np.ndarray, str]:
        """The picture, its round trip, and where they differ (four times as bright)."""
        check_choice("autoencoder", autoencoder, self.names)
        require(isinstance(picture, int) and 0 <= picture < len(self._images), "picture", picture,
                f"a whole number from 0 to {len(self._images) - 1}")
        x, y = self._images[picture : picture + 1], self._trips[autoencoder][picture : picture + 1]
        shown = torch.cat([x, y, _difference(x, y, 4.0)])
        array = lay_out([pixels(shown)], 3, column_labels=["picture", autoencoder, "difference (× 4)"])
        level = float(10 * torch.log10(4 / (x - y.clamp(-1, 1)).square().mean().clamp(min=1e-10)))
        before, after = caption_of(self._said[""], picture), caption_of(self._said[autoencoder], picture)
        read_as = f"read alike: {after}" if before == after else f"read before: {before}; after: {after}"
        return array, f"{level:.1f} dB; {read_as}"
