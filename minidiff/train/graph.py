"""A whole optimiser step as one CUDA graph: small networks are made of thousands of kernels of microseconds each.

Forward, backward, clipping and the update are recorded once and then launched by one call, on buffers that stay where they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from minidiff.errors import require

__all__ = ["GraphedStep"]

_WARM = 3  # steps taken as usual first: cuDNN chooses its kernels, AdamW makes its moments, tables move to the device


class GraphedStep:
    """``step(batch) -> loss`` (0-d): does what ``take(batch)`` does, from the fourth call on as the replay of a CUDA graph.

    take: batch -> mean loss; the whole step, which must not wait for the device, whose shapes may not change, and which must
    leave the gradients as None before it ends or takes them up (``zero_grad(set_to_none=True)`` at its start).
    """

    def __init__(self, take: Callable[[Mapping[str, Tensor]], Tensor], device: torch.device) -> None:
        self.take, self.device, self.calls = take, device, 0
        self._batch: dict[str, Tensor] = {}
        self._graph: torch.cuda.CUDAGraph | None = None
        self._loss: Tensor | None = None

    def __call__(self, batch: Mapping[str, Tensor]) -> Tensor:
        self.calls += 1
        if self.calls <= _WARM:
            aside = torch.cuda.Stream(self.device)          # autograd must not remember the stream that is recorded
            aside.wait_stream(torch.cuda.current_stream(self.device))
            with torch.cuda.stream(aside):
                loss = self.take(batch).clone()
            torch.cuda.current_stream(self.device).wait_stream(aside)
            return loss
        if self._graph is None:
            self._batch = {name: value.clone() for name, value in batch.items()}
            self._graph = torch.cuda.CUDAGraph()
            torch.cuda.synchronize(self.device)
            with torch.cuda.graph(self._graph):
                self._loss = self.take(self._batch)
        for name, value in batch.items():
            require(value.shape == self._batch[name].shape, f"batch[{name!r}]", f"shape {tuple(value.shape)}",
                    f"the shape of the first batches, {tuple(self._batch[name].shape)}, in every step of a CUDA graph")
            self._batch[name].copy_(value, non_blocking=True)
        self._graph.replay()
        assert self._loss is not None
        return self._loss.clone()
