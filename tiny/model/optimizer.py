"""Muon for the matrices, AdamW for the rest; warm-up, then a linear fall to zero.

torch.optim.Muon orthogonalises in bfloat16, which a CPU without bfloat16 units does a hundred times
slower than float32; hence this small one.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # quintic Newton-Schulz (K. Jordan, Muon)


@torch.no_grad()
def orthogonalise(matrix: Tensor, steps: int = 5) -> Tensor:
    """Nearest semi-orthogonal matrix, roughly: all singular values near 1."""
    a, b, c = _COEFFICIENTS
    x = matrix / (matrix.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    found: Tensor = x.T if tall else x
    return found


@torch.no_grad()
def average_gradients(parameters: list[nn.Parameter]) -> None:
    """Mean over the processes, in one message; a missing gradient counts as zero."""
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    flat = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    start = 0
    for parameter in parameters:
        size = parameter.numel()
        parameter.grad = flat[start : start + size].view_as(parameter)
        start += size


class Optimizer:
    """Both optimisers behind one `step`, on one schedule over `total` steps."""

    def __init__(
        self,
        parameters: Iterable[tuple[str, nn.Parameter]],
        lr: float,
        total: int,
        warmup: int = 100,
    ) -> None:
        trained = [(name, p) for name, p in parameters if p.requires_grad]
        self._matrices = [p for name, p in trained if p.ndim == 2 and "embed" not in name]
        rest = [p for name, p in trained if not (p.ndim == 2 and "embed" not in name)]
        self._momenta = [torch.zeros_like(p) for p in self._matrices]
        self._adam = torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.95), weight_decay=0.0)
        self._parameters = self._matrices + rest
        self._lr, self._total, self._warmup, self._step = lr, total, warmup, 0

    @torch.no_grad()
    def step(self) -> None:
        """One update of everything, gradients clipped to norm 1 and then cleared.

        Under torchrun the gradients are first averaged over the processes.
        """
        if dist.is_initialized():
            average_gradients(self._parameters)
        torch.nn.utils.clip_grad_norm_([p for p in self._parameters if p.grad is not None], 1.0)
        lr = self._lr * min(
            (self._step + 1) / self._warmup, max(1 - self._step / self._total, 0.02)
        )
        self._adam.param_groups[0]["lr"] = lr
        self._adam.step()
        for parameter, momentum in zip(self._matrices, self._momenta, strict=True):
            if parameter.grad is None:
                continue
            momentum.lerp_(parameter.grad, 0.05)
            update = orthogonalise(parameter.grad.lerp(momentum, 0.95))
            # 0.2 * sqrt(longer side) gives updates the size of AdamW's, so one rate serves both.
            parameter.mul_(1 - 0.01 * lr)
            parameter.add_(update, alpha=-lr * 0.2 * max(parameter.shape) ** 0.5)
        for parameter in self._parameters:
            parameter.grad = None
        self._step += 1
