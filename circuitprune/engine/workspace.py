"""Large buffers that one run hands to the next.

A fresh tensor of tens of megabytes costs the operating system a page fault for every 4 kB, about as
long as the matrix product that fills it; a mask-training step needs a dozen of the same size.
"""

import math
import weakref

import torch
from jaxtyping import Shaped
from torch import Tensor


class Workspace:
    """A pool of flat buffers; what is taken returns when its owner is no longer referenced."""

    def __init__(self) -> None:
        self._free: list[Tensor] = []

    def lend(self, owner: object) -> "Loan":
        """A loan that ends with `owner`, such as the state that an autograd graph keeps alive."""
        loan = Loan(self._free)
        weakref.finalize(owner, Loan.end, self._free, loan.taken)
        return loan


class Loan:
    """The buffers that one owner has taken from a pool."""

    def __init__(self, free: list[Tensor]) -> None:
        self._free = free
        self.taken: list[Tensor] = []

    def take(self, *shape: int, like: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
        """An uninitialised tensor of this shape with the dtype and device of `like`."""
        size = math.prod(shape)
        fitting = [
            i
            for i, buffer in enumerate(self._free)
            if size <= len(buffer) <= 2 * size
            and buffer.dtype == like.dtype
            and buffer.device == like.device
        ]
        if fitting:
            best = min(fitting, key=lambda i: len(self._free[i]))
            buffer = self._free.pop(best)
        else:  # what is free fits nothing at hand: let it go rather than grow
            self._free.clear()
            buffer = torch.empty(size, dtype=like.dtype, device=like.device)
        self.taken.append(buffer)
        return buffer[:size].view(shape)

    @staticmethod
    def end(free: list[Tensor], taken: list[Tensor]) -> None:
        """Return the buffers to the pool."""
        free.extend(taken)
        taken.clear()
