"""Several processes, one run: the global batch stays the same, each process works on its rows.

Only a launcher starts several, and accelerate is imported only then. On GPUs ``accelerate launch -m minidiff train RECIPE``;
for two processes on the CPU, put ``ACCELERATE_USE_CPU=true`` before it and ``--multi_gpu --num_processes 2`` after
``launch`` (accelerate's own ``--cpu`` starts one process, whatever the number), or use torchrun or mpirun. All processes
need the same machine or a shared folder only for the launcher: checkpoints are read and written by the first alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from minidiff.errors import BadInput, CheckpointError, require
from minidiff.train.speed import pick_device

__all__ = ["Workers", "distributed"]


class Workers:
    """One process alone: every method is the obvious nothing."""

    rank, size = 0, 1

    def __init__(self, device: str | torch.device | None = None) -> None:
        self.device = pick_device(device)

    def check(self, batch: int) -> None:
        """Refuse a batch that cannot be cut evenly."""

    def rows(self, batch: Mapping[str, Any], n: int) -> Mapping[str, Any]:
        """The rows of the global batch that are this process's own."""
        return batch

    def average(self, model: nn.Module, loss: torch.Tensor) -> torch.Tensor:
        """Average gradients in place over the processes; returns the averaged loss."""
        return loss

    def share(self, make: Callable[[], Any]) -> Any:
        """What ``make`` returns, or raises, in process 0."""
        return make()

    def agree(self, flag: bool) -> bool:
        """Process 0's answer."""
        return flag


class _Accelerated(Workers):
    """One of several processes under accelerate; gradients travel as one vector."""

    def __init__(self, device: str | torch.device | None = None) -> None:
        from accelerate import Accelerator

        cpu = device is not None and torch.device(device).type == "cpu"
        self._accelerator = Accelerator(cpu=cpu)
        self.rank, self.size = self._accelerator.process_index, self._accelerator.num_processes
        self.device = self._accelerator.device

    def check(self, batch: int) -> None:
        require(batch % self.size == 0, "batch", batch, f"a multiple of the number of processes ({self.size})",
                f"--num_processes {max(k for k in range(1, self.size + 1) if batch % k == 0)}")

    def rows(self, batch: Mapping[str, Any], n: int) -> Mapping[str, Any]:
        mine = slice(self.rank * n // self.size, (self.rank + 1) * n // self.size)
        return {name: value[mine] if _has_rows(value, n) else value for name, value in batch.items()}

    def average(self, model: nn.Module, loss: torch.Tensor) -> torch.Tensor:
        learned = [p for p in model.parameters() if p.requires_grad]
        for p in learned:
            if p.grad is None:  # a weight that these rows did not use may have been used by another process's rows
                p.grad = torch.zeros_like(p)
        flat = torch.cat([p.grad.reshape(-1) for p in learned] + [loss.detach().float().reshape(1)])
        flat = self._accelerator.reduce(flat, reduction="mean")
        pieces = flat[:-1].split([p.numel() for p in learned])
        torch._foreach_copy_([p.grad for p in learned], [piece.view_as(p) for piece, p in zip(pieces, learned)])
        return flat[-1].clone()  # a view would keep all the gradients

    def share(self, make: Callable[[], Any]) -> Any:
        from accelerate.utils import broadcast_object_list

        parcel: list[Any] = [None, None]
        failure: Exception | None = None
        if self.rank == 0:
            try:
                parcel[0] = make()
            except Exception as error:  # tell the others, who wait for the parcel, then raise it here
                failure = error
                parcel[1] = str(error)
                if isinstance(error, BadInput):
                    parcel[1] = (error.argument, str(error.got), error.expected, error.instead)
        broadcast_object_list(parcel, from_process=0)
        if failure is not None:
            raise failure
        if parcel[1] is not None:
            raise CheckpointError(*parcel[1]) if isinstance(parcel[1], tuple) else RuntimeError(f"process 0: {parcel[1]}")
        return parcel[0]

    def agree(self, flag: bool) -> bool:
        answer = torch.tensor(float(flag and self.rank == 0), device=self.device)
        return bool(self._accelerator.reduce(answer, reduction="sum") > 0)


def _has_rows(value: object, n: int) -> bool:
    if isinstance(value, torch.Tensor):
        return value.ndim > 0 and len(value) == n
    return hasattr(value, "__getitem__") and not isinstance(value, str | Mapping) and len(value) == n


def distributed(device: str | torch.device | None = None) -> Workers:
    """The processes that this one works with: itself, unless a launcher started several."""
    sizes = (int(os.environ.get(name) or 1) for name in ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE"))
    return _Accelerated(device) if max(sizes) > 1 else Workers(device)
