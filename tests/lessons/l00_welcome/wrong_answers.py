"""Wrong answers and honest variants for lesson 00."""

import numpy as np
import torch

from minidiff.world import Scene, render


def _bytes(x):
    return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def _in_place(x):
    x = x.clone()
    x.clamp_(-1, 1).add_(1).mul_(127.5).round_()
    return x.byte().permute(0, 2, 3, 1)


def _loop_iou(a, b):
    out = []
    for m, n in zip(a, b, strict=True):
        either = ((m + n) > 0).sum()
        out.append(((m * n).sum() / either) if either > 0 else torch.tensor(0.0))
    return torch.stack(out)


WRONG = {
    "00.make_it_snow": {
        "nothing": (lambda s: (s.replace(backdrop="snow"), s)[1], "nothing changed"),
        "no hat": (lambda s: s.replace(backdrop="snow"), "no hat"),
        "no snow": (lambda s: s.replace_thing(0, wears="hat"), "not snow"),
        "style too": (lambda s: s.replace(backdrop="snow", style="outline").replace_thing(0, wears="hat"), "style changed"),
        "lost things": (lambda s: Scene((s.things[0].replace(wears="hat", colour="pink"),), "snow", s.style), ""),
        "all hats": (
            lambda s: s.replace(backdrop="snow", things=tuple(t.replace(wears="hat") for t in s.things)),
            "only the first",
        ),
        "rendered": (lambda s: render(s.replace(backdrop="snow").replace_thing(0, wears="hat")), "render comes later"),
    },
    "00.to_pixels": {
        "whole but wide": (lambda x: _bytes(x).long().permute(0, 2, 3, 1), "int64"),
        "no clamp": (
            lambda x: ((x + 1) * 127.5).round().to(torch.int64).remainder(256).to(torch.uint8).permute(0, 2, 3, 1),
            "clamp",
        ),
        "channels first": (_bytes, "channels"),
        "floats": (lambda x: ((x.clamp(-1, 1) + 1) * 127.5).round().permute(0, 2, 3, 1), "uint8"),
        "floor": (lambda x: ((x.clamp(-1, 1) + 1) * 127.5).to(torch.uint8).permute(0, 2, 3, 1), "fractions"),
        "zero to one": (lambda x: (x.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1), "add 1"),
        "128": (lambda x: ((x.clamp(-1, 1) + 1) * 128).round().clamp(max=255).to(torch.uint8).permute(0, 2, 3, 1), "127.5"),
        "transposed": (lambda x: _bytes(x).permute(0, 3, 2, 1), "swapped"),
        "view": (lambda x: _bytes(x).reshape(len(x), *x.shape[2:], 3), "permute moves"),
    },
    "00.fool": {
        "as it was": (lambda x: x.clone(), "same rows"),
        "another order": (lambda x: x.roll(1, 0), "another order"),
        "about the origin": (lambda x: -x, "mean"),
        "moved": (lambda x: x + 1, "mean"),
        "all at the mean": (lambda x: x.mean(0).expand(len(x), -1).clone(), "covariance"),
        "stretched": (lambda x: x.mean(0) - 2 * (x - x.mean(0)), "covariance"),
        "noise of the same spread": (lambda x: x.mean(0) + x.std(0) * torch.randn(x.shape, dtype=x.dtype), ""),
        "one coordinate": (lambda x: torch.cat([2 * x.mean(0)[:1] - x[:, :1], x[:, 1:]], 1), "covariance"),
        "two rows": (lambda x: torch.cat([2 * x.mean(0) - x[:0], x.roll(1, 0)]), "another order"),
    },
    "00.iou": {
        "dice": (lambda a, b: 2 * (a * b).sum((1, 2)) / (a.sum((1, 2)) + b.sum((1, 2))).clamp(min=1), "dice"),
        "sum of areas": (lambda a, b: (a * b).sum((1, 2)) / (a.sum((1, 2)) + b.sum((1, 2))).clamp(min=1), "twice"),
        "recall": (lambda a, b: (a * b).sum((1, 2)) / a.sum((1, 2)).clamp(min=1), "recall"),
        "precision": (lambda a, b: (a * b).sum((1, 2)) / b.sum((1, 2)).clamp(min=1), "precision"),
        "accuracy": (lambda a, b: (a == b).float().mean((1, 2)), "accuracy"),
        "whole batch": (lambda a, b: (a * b).sum() / torch.maximum(a, b).sum(), "whole batch"),
        "nan": (lambda a, b: (a * b).sum((1, 2)) / torch.maximum(a, b).sum((1, 2)), "empty"),
    },
    "00.psnr": {
        "peak 1": (lambda x, y: 10 * torch.log10(1 / ((x - y) ** 2).mean((1, 2, 3))), "peak is 1"),
        "peak 255": (lambda x, y: 10 * torch.log10(255**2 / ((x - y) ** 2).mean((1, 2, 3))), "255"),
        "factor 20": (lambda x, y: 20 * torch.log10(4 / ((x - y) ** 2).mean((1, 2, 3))), "factor is 20"),
        "natural": (lambda x, y: 10 * torch.log(4 / ((x - y) ** 2).mean((1, 2, 3))), "natural"),
        "peak not squared": (lambda x, y: 10 * torch.log10(2 / ((x - y) ** 2).mean((1, 2, 3))), "not squared"),
        "sign": (lambda x, y: 10 * torch.log10(((x - y) ** 2).mean((1, 2, 3)) / 4), "sign"),
        "whole batch": (lambda x, y: 10 * torch.log10(4 / ((x - y) ** 2).mean()), "whole batch"),
    },
    "00.frechet_1d": {
        "variances": (lambda a, b: (a.mean() - b.mean()) ** 2 + (a.var() - b.var()) ** 2, "variances"),
        "biased": (lambda a, b: (a.mean() - b.mean()) ** 2 + (a.std(correction=0) - b.std(correction=0)) ** 2, "biased"),
        "no cross term": (lambda a, b: (a.mean() - b.mean()) ** 2 + a.var() + b.var(), "cross term"),
        "means not squared": (lambda a, b: (a.mean() - b.mean()).abs() + (a.std() - b.std()) ** 2, "not squared"),
        "means only": (lambda a, b: (a.mean() - b.mean()) ** 2, "only the means"),
        "spreads only": (lambda a, b: (a.std() - b.std()) ** 2, "only the spreads"),
        "root": (lambda a, b: ((a.mean() - b.mean()) ** 2 + (a.std() - b.std()) ** 2) ** 0.5, "root"),
    },
    "00.total_variation": {
        "no half": (lambda a, b: (a / a.sum() - b / b.sum()).abs().sum(), "half is missing"),
        "counts": (lambda a, b: (a - b).abs().sum() / 2, "counts are compared"),
        "largest": (lambda a, b: (a / a.sum() - b / b.sum()).abs().max(), "largest"),
        "squares": (lambda a, b: ((a / a.sum() - b / b.sum()) ** 2).sum() / 2, "squares"),
        "signed": (lambda a, b: (a / a.sum() - b / b.sum()).sum() / 2, "cancel"),
        "mean": (lambda a, b: (a / a.sum() - b / b.sum()).abs().mean() / 2, "mean over"),
    },
    "00.forty_of_forty": {
        "seen": (1.0, "seen"),
        "39": (0.975, "39"),
        "confidence": (0.95, "confidence"),
        "rule of three": (0.925, "rule of three"),
        "width": (0.0876, "width"),
        "word": ("high", "one number"),
    },
}

HONEST = {
    "00.make_it_snow": {
        "other order": lambda s: s.replace_thing(0, wears="hat").replace(backdrop="snow"),
        "by hand": lambda s: Scene((s.things[0].replace(wears="hat"), *s.things[1:]), backdrop="snow", style=s.style),
    },
    "00.to_pixels": {
        "in place on a copy": _in_place,
        "plus a half": lambda x: ((x.clamp(-1, 1) + 1) * 127.5 + 0.5).byte().permute(0, 2, 3, 1),
        "numpy": lambda x: np.clip((x.numpy() + 1) * 127.5, 0, 255).round().astype(np.uint8).transpose(0, 2, 3, 1),
        "double": lambda x: ((x.double().clamp(-1, 1) / 2 + 0.5) * 255).round().to(torch.uint8).movedim(1, -1),
    },
    "00.iou": {
        "loop": _loop_iou,
        "products": lambda a, b: (a * b).sum((1, 2)) / torch.maximum(a, b).sum((1, 2)).clamp(min=1),
        "einsum": lambda a, b: torch.einsum("bhw,bhw->b", a, b) / (a + b - a * b).sum((-1, -2)).clamp(min=1e-9),
    },
    "00.psnr": {
        "float32": lambda x, y: 20 * torch.log10(2 / ((x.float() - y.float()) ** 2).mean((1, 2, 3)).sqrt()),
        "flatten": lambda x, y: 10 * (4 / (x - y).flatten(1).square().mean(1)).log10(),
    },
    "00.frechet_1d": {
        "float32": lambda a, b: (a.float().mean() - b.float().mean()) ** 2 + (a.float().std() - b.float().std()) ** 2,
        "trace": lambda a, b: (a.mean() - b.mean()) ** 2 + a.var() + b.var() - 2 * (a.var() * b.var()).sqrt(),
        "python": lambda a, b: float((a.mean() - b.mean()) ** 2 + (a.std() - b.std()) ** 2),
    },
    "00.total_variation": {
        "overlap": lambda a, b: 1 - torch.minimum(a / a.sum(), b / b.sum()).sum(),
        "positive part": lambda a, b: (a / a.sum() - b / b.sum()).clamp(min=0).sum(),
    },
    "00.fool": {
        "through the mean": lambda x: x.mean(0) - (x - x.mean(0)),
        "along the eigenvectors": lambda x: x.mean(0) - (x - x.mean(0)) @ (v := torch.linalg.eigh(torch.cov(x.T))[1]) @ v.T,
        "float32": lambda x: 2 * x.float().mean(0) - x.float(),
    },
    "00.forty_of_forty": {"exact": 0.91238, "rounded": 0.91, "tensor": torch.tensor(0.912)},
}

EQUIVALENT = {
    "00.make_it_snow": {
        "return scene.replace(backdrop='snow').replace_thing(wears='hat')": "the first thing is what it means by default",
    },
    "00.iou": {
        "b, a = (a.bool(), b.bool())": "overlap is symmetric",
        "a, b = (b.bool(), a.bool())": "overlap is symmetric",
    },
    "00.total_variation": {
        "q, p = (counts_a / counts_a.sum(), counts_b / counts_b.sum())": "the distance is symmetric",
        "p, q = (counts_b / counts_b.sum(), counts_a / counts_a.sum())": "the distance is symmetric",
    },
}

ONCE = {
    "00.to_pixels": {"images, axis 1: 3": "the colours"},
    "00.psnr": {"x, axis 1: 3": "the colours", "y, axis 1: 3": "the colours"},
}
