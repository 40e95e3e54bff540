"""What PARASOL shows the U-Net: a picture's style and another's content, as codes, then as tokens in the text's place.

Codes come from a frozen reader. Style: means and standard deviations of its early features, which forget where things are.
Content: its features under the surest centre, and its pooled vector (CLIP in the paper).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minidiff.errors import check_images, require
from minidiff.measure.reader import Reader

__all__ = ["StyleTokens", "content_code", "info_nce", "style_statistics"]

_WORDS = 10                 # content positions with a vector of their own; what stands behind them repeats the last


def style_statistics(reader: Reader, images: Tensor) -> Tensor:
    """(B, 2C) mean and standard deviation over all places of each channel of the reader's first two levels.

    images: (B, 3, S, S) in [-1, 1]. The statistics that adaptive instance normalisation changes (Huang and Belongie 2017, eq. 8).
    """
    check_images("images", images, channels=3)
    levels = [level.flatten(2) for level in reader(images).layers[:2]]
    return torch.cat([part for level in levels for part in (level.mean(2), level.std(2))], 1)


def content_code(reader: Reader, images: Tensor) -> Tensor:
    """(B, D) the reader's features in the cell of its surest centre, then its pooled vector; images (B, 3, S, S) in [-1, 1]."""
    check_images("images", images, channels=3)
    kept: list[Tensor] = []
    handle = reader.cells.register_forward_hook(lambda module, given, out: kept.append(out))
    try:
        raw = reader(images)
    finally:
        handle.remove()
    surest = raw.centre.flatten(1).argmax(1)
    cells = kept[0].flatten(2)
    under = cells.gather(2, surest[:, None, None].expand(-1, cells.shape[1], 1))[..., 0]
    return torch.cat([under, raw.features], 1)


def info_nce(codes: Tensor, labels: Tensor, *, temperature: float = 0.1) -> Tensor:
    """Contrastive loss (B,) of unit codes (B, D): mean over the rows of a row's own label of -log of their share of its softmax.

    labels: (B,), here the style. Similarities over ``temperature``, a row is not compared with itself (InfoNCE, van den Oord et
    al. 2018, with several positives: Khosla et al. 2020). 0 for a row that has no partner.
    """
    require(
        codes.ndim == 2 and labels.shape == codes.shape[:1], "labels", f"shape {tuple(labels.shape)}", "one label a row of codes"
    )
    own = torch.eye(len(codes), dtype=torch.bool, device=codes.device)
    close = (codes @ codes.T / temperature).masked_fill(own, -torch.inf).log_softmax(1)
    same = (labels[:, None] == labels) & ~own
    each = torch.where(same, close, 0.0).sum(1) / same.sum(1).clamp(min=1)
    return -each


def _mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(inputs), nn.Linear(inputs, hidden), nn.SiLU(), nn.Linear(hidden, outputs))


class StyleTokens(nn.Module):
    """Style encoder A and the projectors M: from codes to the context (B, length, width) of a U-Net.

    Of the ``length`` positions the first ``positions`` are the content's, the rest the style's, as words and the padding
    behind them, whose vectors in this text encoder differ with the sentence, too. One style vector stands at all of its
    positions, with an offset each. empty (length, width): the text encoder's output for "", in the place of what is dropped.
    """

    def __init__(self, *, statistics: int = 144, content: int = 160, code: int = 64, hidden: int = 192, length: int = 34,
                 width: int = 96, positions: int = 20) -> None:
        super().__init__()
        require(_WORDS < positions < length, "positions", positions, f"more than {_WORDS}, fewer than {length}")
        self.config = {"statistics": statistics, "content": content, "code": code, "hidden": hidden, "length": length,
                       "width": width, "positions": positions}
        self.positions = positions
        self.encoder = _mlp(statistics, 128, code)
        self.style = _mlp(code, 128, width)
        self.content = _mlp(content, hidden, _WORDS * width)
        self.offsets = nn.Parameter(torch.zeros(length, width))
        self.register_buffer("empty", torch.zeros(length, width))

    def style_code(self, statistics: Tensor) -> Tensor:
        """A: (B, 2C) statistics -> (B, code) of unit length."""
        return F.normalize(self.encoder(statistics), dim=1)

    def style_tokens(self, code: Tensor) -> Tensor:
        """M of the style: (B, code) -> (B, length - positions, width)."""
        return self.style(code)[:, None] + self.offsets[self.positions:]

    def content_tokens(self, code: Tensor) -> Tensor:
        """M of the content: (B, content) -> (B, positions, width)."""
        words = self.content(code).unflatten(1, (_WORDS, -1))
        rest = words[:, -1:].expand(-1, self.positions - _WORDS, -1)
        return torch.cat((words, rest), 1) + self.offsets[:self.positions]

    def context(self, style: Tensor | None = None, content: Tensor | None = None, *, n: int | None = None) -> Tensor:
        """(B, length, width) of a style code and a content code; None: nothing is said of it. n: rows where both are None."""
        given = [x for x in (style, content) if x is not None]
        require(bool(given) or n is not None, "n", None, "a number of rows where neither code is given", "context(n=4)")
        rows = len(given[0]) if given else n
        empty = self.empty.expand(rows, -1, -1)
        first = empty[:, :self.positions] if content is None else self.content_tokens(content)
        last = empty[:, self.positions:] if style is None else self.style_tokens(style)
        return torch.cat((first, last), 1)
