"""What makes a training step fast on its device without changing what is computed.

Precision is the exception: bf16 and fp16 round differently, and are part of the protocol.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from mmengine.dist import get_world_size
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn

MOST_WORKERS = 8
FUSED = ('SGD', 'Adam', 'AdamW')  # optimizers of which PyTorch has a fused form on CPU and GPU


class _NormOnDevice:
    """Keeps the norm of the gradients on the device; `LossHook` logs it."""

    grad_norm: torch.Tensor | None = None
    optimizer: torch.optim.Optimizer
    clip_func: Any
    clip_grad_kwargs: Any

    def _clip_grad(self) -> None:
        parameters = [
            parameter
            for group in self.optimizer.param_groups
            for parameter in group['params']
            if parameter.requires_grad and parameter.grad is not None
        ]
        if parameters:
            self.grad_norm = self.clip_func(parameters, **self.clip_grad_kwargs)


@OPTIM_WRAPPERS.register_module()
class AsyncOptimWrapper(_NormOnDevice, OptimWrapper):
    """MMEngine's OptimWrapper that does not wait for the device."""


@OPTIM_WRAPPERS.register_module()
class AsyncAmpOptimWrapper(_NormOnDevice, AmpOptimWrapper):
    """MMEngine's AmpOptimWrapper that does not wait for the norm of the gradients."""


@OPTIM_WRAPPERS.register_module()
class Bf16OptimWrapper(AsyncOptimWrapper):
    """Training in bfloat16 where PyTorch's autocast uses half precision; parameters stay in float32.

    bfloat16 has the range of float32, so losses are not scaled.
    """

    @contextlib.contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Enter autocast for the forward pass."""
        device = next(model.parameters()).device.type
        with super().optim_context(model), torch.autocast(device, torch.bfloat16):
            yield


HALF = ('AmpOptimWrapper', 'Bf16OptimWrapper')
ASYNC = {'OptimWrapper': 'AsyncOptimWrapper', 'AmpOptimWrapper': 'AsyncAmpOptimWrapper'}


def fast_optimizer(optim_wrapper: Any) -> Any:
    """Return an optimizer wrapper's config with a fused optimizer and without waiting for the device."""
    if not isinstance(optim_wrapper, Mapping) or not isinstance(optim_wrapper.get('optimizer'), Mapping):
        return optim_wrapper
    wrapper: dict[str, Any] = dict(optim_wrapper)
    wrapper['type'] = ASYNC.get(wrapper.get('type', 'OptimWrapper'), wrapper.get('type'))
    optimizer = dict(wrapper['optimizer'])
    if optimizer.get('type') in FUSED and not optimizer.get('foreach'):
        optimizer.setdefault('fused', True)
    return {**wrapper, 'optimizer': optimizer}


def use_channels_last(model: nn.Module, optim_wrapper: Any) -> nn.Module:
    """Convert the convolutions of a model to channels-last memory where it is faster.

    That is in half precision on a GPU. In float32, cuDNN's depthwise convolutions are slower in it.
    """
    half = isinstance(optim_wrapper, Mapping) and optim_wrapper.get('type') in HALF
    return model.to(memory_format=torch.channels_last) if half and torch.cuda.is_available() else model


def with_workers(dataloader: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of a data loader with worker processes, if there is a GPU to keep busy.

    A loader without workers in the config gets one for each core that this machine has for the process, at
    most eight. A loader that stays without workers loses the settings of workers, which PyTorch refuses.
    """
    loader = dict(dataloader)
    if torch.cuda.is_available():
        loader.setdefault('pin_memory', True)
        if not loader.get('num_workers'):
            cores = (
                len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
            )
            workers = min((cores or 1) // get_world_size() - 1, MOST_WORKERS)
            if workers > 0:
                loader.update(num_workers=workers, persistent_workers=True, prefetch_factor=4)
    if not loader.get('num_workers'):
        for setting in ('persistent_workers', 'prefetch_factor', 'timeout'):
            loader.pop(setting, None)
    return loader
