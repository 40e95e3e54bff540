"""What makes a run fast on the machine at hand. None of it changes the maths.

The environment variable MINIDIFF_PRECISION (auto, float32 or bf16) says what ``precision="auto"`` means; unset, or auto, the
processor decides. It is how the tests show both answers on one machine; an explicit ``precision=`` is never overruled.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from minidiff.errors import BadInput, check_choice

__all__ = ["PRECISIONS", "Speed", "automatic_bf16", "fast_matmul", "native_bf16", "pick_device"]

PRECISIONS = ("auto", "float32", "bf16")


_COUNTS = {"cpu": lambda: 1, "cuda": torch.cuda.device_count, "mps": lambda: int(torch.backends.mps.is_available()),
           "xpu": lambda: torch.xpu.device_count() if hasattr(torch, "xpu") else 0}


def pick_device(device: str | torch.device | None = None) -> torch.device:
    """The device asked for, or CUDA where there is one, or the CPU."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(device)
    except (RuntimeError, TypeError):
        raise BadInput("device", repr(device), "a torch device", "device='cpu' or device='cuda'") from None
    if device.type not in _COUNTS:
        raise BadInput("device", repr(str(device)), f"one of {', '.join(_COUNTS)}", "device='cpu'")
    count = _COUNTS[device.type]()
    if count == 0:
        name = {"cuda": "CUDA GPU"}.get(device.type, f"{device.type} device")
        raise BadInput("device", repr(str(device)), f"a device that this machine has (torch sees no {name})", "device='cpu'")
    if device.index is not None and device.index >= count:
        raise BadInput("device", repr(str(device)), f"a device that this machine has (torch sees {count})", "device='cpu'")
    return device


def native_bf16(device: torch.device) -> bool:
    """True where the processor multiplies bfloat16 itself. Elsewhere it is emulated, and slower than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    probe = getattr(torch.cpu, "get_capabilities", None)
    if probe is not None:
        able = probe()
        return bool(able.get("avx512_bf16") or able.get("amx_bf16"))
    probes = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(p() for p in probes if p is not None)


def automatic_bf16(device: torch.device) -> bool:
    """What ``precision="auto"`` means: the word in MINIDIFF_PRECISION, else :func:`native_bf16`."""
    word = os.environ.get("MINIDIFF_PRECISION") or "auto"
    check_choice("MINIDIFF_PRECISION", word, PRECISIONS)
    return native_bf16(device) if word == "auto" else word == "bf16"


def _norm_keeps_channels_last(device: torch.device) -> bool:
    """False where group norm turns channels-last pictures back (pytorch #111824): then the layout costs two copies a block."""
    x = torch.zeros(2, 8, 4, 4, device=device).to(memory_format=torch.channels_last)
    return F.group_norm(x, 2).is_contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class Speed:
    """The choices for one run: see :meth:`choose`."""

    device: torch.device
    bf16: bool
    compile: bool
    channels_last: bool
    graph: bool = False

    @classmethod
    def choose(cls, device: torch.device, *, precision: str = "auto", compile: bool = False, alone: bool = True) -> Speed:
        """precision: auto, float32 or bf16. compile: by torch.compile; without it a step on CUDA is recorded as a CUDA graph.
        Pictures are laid out channels last where that is the faster: on CUDA, and on a CPU in float32 (1.1 to 1.2 times).

        alone: False for one of several processes, whose gradients are averaged between backward and update: no graph then.
        """
        check_choice("precision", precision, PRECISIONS)
        bf16 = automatic_bf16(device) if precision == "auto" else precision == "bf16"
        cuda = device.type == "cuda"
        last = cuda and compile or (cuda or device.type == "cpu" and not bf16) and _norm_keeps_channels_last(device)
        return cls(device, bf16, compile, last, cuda and alone and not compile)

    def place(self, model: nn.Module) -> nn.Module:
        model = model.to(self.device)
        return model.to(memory_format=torch.channels_last) if self.channels_last else model

    def arrange(self, value: object) -> object:
        """A batch entry on the device, pictures in the layout of the network."""
        if not isinstance(value, torch.Tensor):
            return value
        if self.channels_last and value.ndim == 4:
            return value.to(self.device, memory_format=torch.channels_last, non_blocking=True)
        return value.to(self.device, non_blocking=True)

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        return torch.autocast(self.device.type, dtype=torch.bfloat16) if self.bf16 else contextlib.nullcontext()


@contextlib.contextmanager
def fast_matmul(device: torch.device) -> Iterator[None]:
    """TF32 and cuDNN's own search for the fastest convolution, while a run lasts; the caller's settings come back after."""
    if device.type != "cuda":
        yield
        return
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = before[1:]
