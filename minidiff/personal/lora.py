"""Low-rank adaptation (Hu et al. 2022), from scratch: W + (alpha / r) B A beside frozen weights.

Each adapted layer keeps its own module; the low-rank path is added by a forward hook, so nothing in the network is replaced
and taking the adapter away leaves no trace. Files are those of peft and diffusers: ``pipe.load_lora_weights`` reads them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from minidiff.errors import BadInput, check_choice, require
from minidiff.rng import generator

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

__all__ = ["ATTENTION", "CROSS_KV", "EVERYWHERE", "LoRA", "load_lora"]

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")          # diffusers' choice: every attention layer
CROSS_KV = ("attn2.to_k", "attn2.to_v")                   # Custom Diffusion (Kumari et al. 2023): where the words come in
EVERYWHERE = (*ATTENTION, "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "conv1", "conv2", "conv_shortcut", "time_emb_proj")
_FILE = "pytorch_lora_weights.safetensors"


class LoRA(nn.Module):
    """A low-rank adapter of one network: ``y = W x + scale (alpha / r) B A x`` in every layer whose path ends in a target.

    network: any module with Linear and Conv2d layers, such as ``pipe.unet``; it is not changed, and its weights should be
    frozen. rank: r. alpha: r when left out, so that files without alpha say the same. targets: endings of paths.
    rows: which rows of a batch the adapter acts on, None for all; several adapters with different rows train as one batch.
    seed: of A, drawn normally with standard deviation 1 / r; B begins at zero, so a fresh adapter changes nothing.

    It is attached when made. ``scale`` may be set at any time; 0 is the network itself, bit for bit.
    """

    def __init__(self, network: nn.Module, *, rank: int = 4, alpha: float | None = None, targets: Sequence[str] = ATTENTION,
                 seed: int = 0, rows: slice | None = None) -> None:
        super().__init__()
        require(isinstance(rank, int) and rank >= 1, "rank", repr(rank), "a whole number, 1 or more", "rank=4")
        self.rank, self.alpha, self.scale, self.rows = rank, float(rank if alpha is None else alpha), 1.0, rows
        self.targets = tuple(targets)
        ends = tuple("." + t for t in targets)                     # peft hides what it adapts in base_layer
        self._layers = {path: layer for path, layer in network.named_modules() if isinstance(layer, (nn.Linear, nn.Conv2d))
                        and ("." + path).removesuffix(".base_layer").endswith(ends)}
        require(bool(self._layers), "targets", repr(self.targets), "endings of paths of Linear or Conv2d layers",
                f"targets={ATTENTION}")
        self.A, self.B = nn.ParameterDict(), nn.ParameterDict()
        for path, layer in self._layers.items():
            weight = layer.weight
            shape = (rank, *weight.shape[1:])
            draw = torch.randn(shape, generator=generator("lora", seed, path)) / rank
            self.A[_key(path)] = nn.Parameter(draw.to(weight))
            self.B[_key(path)] = nn.Parameter(weight.new_zeros(weight.shape[0], rank, *[1] * (weight.ndim - 2)))
        self._handles: list = []
        self._merged: dict[str, Tensor] | None = None
        self.attach()

    @property
    def paths(self) -> list[str]:
        """The adapted layers."""
        return list(self._layers)

    @property
    def attached(self) -> bool:
        """Whether the network runs with the adapter, through its hooks or merged."""
        return bool(self._handles) or self._merged is not None

    def low(self, path: str, x: Tensor) -> Tensor:
        """(alpha / r) B A x: what a layer's own low-rank path adds to its output for the input x, before ``scale``."""
        check_choice("path", path, self.paths)
        A, B, layer = self.A[_key(path)], self.B[_key(path)], self._layers[path]
        if isinstance(layer, nn.Conv2d):
            return self.alpha / self.rank * F.conv2d(F.conv2d(x, A, None, layer.stride, layer.padding, layer.dilation), B)
        return self.alpha / self.rank * (x @ A.T @ B.T)

    def _add(self, path: str, x: Tensor, y: Tensor) -> Tensor:
        if self.scale == 0:
            return y
        low = self.scale * self.low(path, x if self.rows is None else x[self.rows])
        if self.rows is None:
            return y + low
        y[self.rows] += low                       # the layer's own fresh output: many adapters, one tensor
        return y

    def attach(self) -> LoRA:
        """Add the low-rank path to the network's layers (again)."""
        require(self._merged is None, "attach", "a merged adapter", "an adapter that is not merged", "lora.unmerge()")
        if not self._handles:
            self._handles = [layer.register_forward_hook(lambda _, x, y, path=path: self._add(path, x[0], y))
                             for path, layer in self._layers.items()]
        return self

    def detach(self) -> LoRA:
        """Take the low-rank path away: the network is what it was, bit for bit."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        return self

    def __enter__(self) -> LoRA:
        return self.attach()

    def __exit__(self, *args: object) -> None:
        self.detach()

    def delta(self, path: str) -> Tensor:
        """Delta W of one layer, in the layer's shape: (alpha / r) B A."""
        check_choice("path", path, self.paths)
        A, B = self.A[_key(path)], self.B[_key(path)]
        return self.alpha / self.rank * (B.flatten(1) @ A.flatten(1)).reshape(self._layers[path].weight.shape)

    @torch.no_grad()
    def merge(self) -> None:
        """Write W + scale Delta W into the layers, and detach: no cost at run time, any code runs it. Undo: :meth:`unmerge`."""
        require(self._merged is None, "merge", "a merged adapter", "one that is not", "lora.unmerge()")
        require(self.rows is None, "merge", f"an adapter of rows {self.rows}", "one that acts on the whole batch", "rows=None")
        self.detach()
        self._merged = {path: layer.weight.detach().clone() for path, layer in self._layers.items()}
        for path, layer in self._layers.items():
            layer.weight += self.scale * self.delta(path)

    @torch.no_grad()
    def unmerge(self) -> None:
        """Put the old weights back, bit for bit (subtracting Delta W would leave rounding), and attach."""
        require(self._merged is not None, "unmerge", "an adapter that is not merged", "a merged one", "lora.merge()")
        for path, weight in self._merged.items():
            self._layers[path].weight.copy_(weight)
        self._merged = None
        self.attach()

    def tensors(self) -> dict[str, Tensor]:
        """What peft calls them: ``unet.PATH.lora_A.weight`` (r, in, ...) and ``unet.PATH.lora_B.weight`` (out, r, ...)."""
        out = {}
        for path in self.paths:
            for name, table in (("lora_A", self.A), ("lora_B", self.B)):
                out[f"unet.{path}.{name}.weight"] = table[_key(path)].detach().cpu().contiguous()
        return out

    def save(self, folder: str | Path, *, half: bool = False) -> Path:
        """Write ``folder/pytorch_lora_weights.safetensors`` with rank and alpha in its metadata; half: as float16."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        config = {"unet.r": self.rank, "unet.lora_alpha": self.alpha, "unet.target_modules": self.paths}
        tensors = {k: v.half() if half else v for k, v in self.tensors().items()}
        save_file(tensors, folder / _FILE, {"format": "pt", "lora_adapter_metadata": json.dumps(config)})
        return folder / _FILE

    def count(self) -> int:
        """Trained parameters: the sum of r (in + out)."""
        return sum(p.numel() for p in self.parameters())


def load_lora(pipe: StableDiffusionPipeline, folder: str | Path) -> LoRA:
    """Attach an adapter that :meth:`LoRA.save`, peft or diffusers wrote (``pytorch_lora_weights.safetensors``) to ``pipe.unet``.

    Without alpha in the file's metadata alpha = r is taken, which is what diffusers does too.
    """
    path = Path(folder) / _FILE if Path(folder).is_dir() else Path(folder)
    require(path.is_file(), "folder", str(folder), f"a folder with {_FILE}")
    with safe_open(path, framework="pt") as file:
        tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118  a safetensors file is no dict
        config = json.loads((file.metadata() or {}).get("lora_adapter_metadata", "{}"))
    tables: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        stem, _, kind = name.removesuffix(".weight").rpartition(".lora")
        side = {"_A": "A", "_B": "B", ".down": "A", ".up": "B"}.get(kind)
        if not stem.startswith("unet.") or side is None:
            raise BadInput("folder", f"{name!r} in {path}", "an adapter of a U-Net: unet.PATH.lora_A.weight and lora_B.weight")
        tables.setdefault(stem.removeprefix("unet."), {})[side] = value
    ranks = {table["A"].shape[0] for table in tables.values()}
    require(len(ranks) == 1, "folder", f"ranks {sorted(ranks)} in {path}", "one rank for all layers")
    lora = LoRA(pipe.unet, rank=ranks.pop(), alpha=config.get("unet.lora_alpha"), targets=tuple(tables))
    require(sorted(lora.paths) == sorted(tables), "folder", f"layers that this U-Net lacks, in {path}",
            "an adapter of this U-Net")
    with torch.no_grad():
        for name, table in tables.items():
            for side, values in (("A", lora.A), ("B", lora.B)):
                require(values[_key(name)].shape == table[side].shape, "folder", f"{name}: {tuple(table[side].shape)}",
                        f"shape {tuple(values[_key(name)].shape)}, an adapter of this U-Net")
                values[_key(name)].copy_(table[side])
    return lora


def _key(path: str) -> str:
    return path.replace(".", "/")            # ParameterDict allows no dots
