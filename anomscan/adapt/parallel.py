"""Forward and backward passes that use every core without making them wait for each other."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

import torch
from torch import Tensor, nn

from anomscan.pipeline import available_cores


class CoreParallel:
    """Splits a batch over the cores, one thread each, which meet once a pass instead of at every layer.

    Within a layer torch's threads wait for the slowest; where another program takes a core now and
    then, that wait costs most of the time. On a CUDA device there is one worker.

    Args:
        tail: the network; its parameters that require gradients receive them.
        device: where it runs; it is moved there.
    """

    def __init__(self, tail: nn.Module, device: torch.device) -> None:
        self._tail = tail.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._device = device
        self._parameters = [parameter for parameter in tail.parameters() if parameter.requires_grad]
        self._workers = available_cores() if device.type == "cpu" else 1
        self._pool = ThreadPoolExecutor(self._workers, initializer=torch.set_num_threads, initargs=(1,))
        self._outputs: list[Tensor] = []

    def __enter__(self) -> CoreParallel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown()

    def features(self, activations: Tensor) -> Tensor:
        """The features of a batch, without gradients: (n, ...) to (n, D)."""
        return torch.cat(list(self._pool.map(self._without_gradient, activations.chunk(self._workers))))

    def forward(self, activations: Tensor) -> Tensor:
        """The features of a batch, a leaf whose gradient ``backward`` carries on: (n, ...) to (n, D)."""
        self._outputs = list(self._pool.map(self._run, activations.chunk(self._workers)))
        return torch.cat([output.detach() for output in self._outputs]).requires_grad_()

    def backward(self, gradient: Tensor) -> None:
        """Set the parameters' gradients, given that of the features from the last ``forward``."""
        shares = torch.split(gradient, [len(output) for output in self._outputs])
        parts = list(self._pool.map(self._gradients, self._outputs, shares))
        for parameter, *gradients in zip(self._parameters, *parts, strict=True):
            parameter.grad = torch.stack(gradients).sum(dim=0)
        self._outputs = []

    def _run(self, activations: Tensor) -> Tensor:
        layout = torch.channels_last if activations.ndim == 4 else torch.contiguous_format
        output: Tensor = self._tail(activations.to(self._device).contiguous(memory_format=layout))
        return output

    def _without_gradient(self, activations: Tensor) -> Tensor:
        with torch.no_grad():
            return self._run(activations)

    def _gradients(self, output: Tensor, gradient: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(output, self._parameters, gradient, materialize_grads=True)
