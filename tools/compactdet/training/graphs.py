"""The backbone's training pass as CUDA graphs: one launch in place of a thousand."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn

from backbones.sparsity.layers import LearnedGroupConv
from compactdet.errors import UserError

MOST_GRAPHS = 8  # each keeps the activations of one input shape
CALLS_BEFORE = 2  # of a shape without a graph, in which cuDNN chooses its kernels and Triton compiles


class _Call(nn.Module):
    """A module with the parameters of a network and its forward pass at one input shape."""

    def __init__(self, network: nn.Module, forward: Any):
        super().__init__()
        self.network = network
        self.call = forward

    def forward(self, images: Tensor) -> Any:
        return self.call(images)


class GraphedForward:
    """A network's ``forward`` that replays a CUDA graph for each shape of input seen often enough.

    Only passes on a GPU that need a gradient are captured. All others, and shapes beyond the first
    `MOST_GRAPHS`, run as before. A graph fixes what Python decides in the forward pass, so the network must
    decide nothing there that changes from step to step, as learned sparsity does.

    Args:
        network: The network, whose ``forward`` the caller replaces by this object.
    """

    def __init__(self, network: nn.Module):
        self.network = network
        self.eager = network.forward
        self.calls: Counter[Any] = Counter()
        self.graphs: dict[Any, nn.Module] = {}

    def __call__(self, images: Tensor) -> Any:
        """Return the network's maps of images, (N, 3, H, W)."""
        if not (images.is_cuda and self.network.training and torch.is_grad_enabled()):
            return self.eager(images)
        half = torch.get_autocast_dtype('cuda') if torch.is_autocast_enabled('cuda') else None
        key = (images.shape, images.stride(), images.dtype, half)
        graph = self.graphs.get(key)
        if graph is None:
            self.calls[key] += 1
            if self.calls[key] <= CALLS_BEFORE or len(self.graphs) >= MOST_GRAPHS:
                return self.eager(images)
            graph = self.graphs[key] = self._capture(images, half)
        return graph(images)

    def _capture(self, images: Tensor, half: torch.dtype | None) -> nn.Module:
        """Return the graph of a forward and backward pass; running statistics stay as they are."""
        before = [buffer.clone() for buffer in self.network.buffers()]
        call = _Call(self.network, self.eager).train()
        # Graphs cannot share the casts that autocast caches.
        with torch.autocast('cuda', half or torch.float16, enabled=half is not None, cache_enabled=False):
            torch.cuda.make_graphed_callables(call, (images.clone(),), allow_unused_input=True)
        with torch.no_grad():
            for buffer, old in zip(self.network.buffers(), before, strict=True):
                buffer.copy_(old)
        return call


def with_cuda_graphs(network: nn.Module) -> nn.Module:
    """Return a network whose ``forward`` is a `GraphedForward`.

    Raises:
        UserError: It has learned sparsity, whose forward pass changes from epoch to epoch.
    """
    if any(isinstance(layer, LearnedGroupConv) for layer in network.modules()):
        raise UserError(
            f'--cuda-graphs: {type(network).__name__} has learned sparsity, which changes its forward pass '
            'during training; omit the option'
        )
    network.forward = GraphedForward(network)
    return network
