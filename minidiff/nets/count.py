"""How big a net is, and how much it computes: parameters and multiply-adds."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["parameters", "multiply_adds"]


def parameters(net: nn.Module) -> int:
    """Trainable numbers, each counted once."""
    return sum(p.numel() for p in net.parameters() if p.requires_grad)


def multiply_adds(net: nn.Module, *inputs: Tensor) -> int:
    """Multiply-adds of ``net(*inputs)`` in convolutions and matrix products, attention included; 2 flops each.

    For the whole batch given: use a batch of 1 for the cost of one picture. Norms, activations and biases are not counted.
    """
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        # The fused attention kernels of the CPU are not in torch's table of counted operations; the plain one is.
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            net(*inputs)
    finally:
        for module, training in modes:
            module.training = training
    return counter.get_total_flops() // 2
