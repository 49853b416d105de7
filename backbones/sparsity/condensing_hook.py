"""Hook that drops connections during training, and the penalty on weak connections."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from torch import Tensor, nn

from backbones.sparsity.conversion import masked_convs
from backbones.sparsity.layers import CondensingError, InputMaskedConv2d, MaskedConv2d


def group_lasso(network: nn.Module) -> Tensor:
    """Return the penalty on weak inputs of learned group convolutions: a scalar.

    It is the sum over layers, groups and inputs of the L2 norm of the weights from the input to the group's
    outputs (CondenseNet, section 3.3). A layer that has made all its drops adds nothing.
    """
    total = next(network.parameters()).new_zeros(())
    for layer in masked_convs(network).values():
        if isinstance(layer, InputMaskedConv2d) and layer.drops[0] < layer.drops[1]:
            total = total + layer.strengths(2).sum()
    return total


def drops_due(factor: int, done: int, total: int) -> int:
    """Return the number of a layer's factor - 1 drops that belong to the first ``done`` of ``total``
    iterations.

    They are spread evenly over the first half, in integer arithmetic, so that rounding delays none.
    """
    return min(2 * done * (factor - 1) // total, factor - 1)


@HOOKS.register_module()
class CondensingHook(Hook):
    """Hook that makes each drop when it is due: ``custom_hooks=[dict(type='CondensingHook')]``.

    Drop s of C-1 is due after s / (2 (C-1)) of the training; the second half trains the remaining weights.
    The hook uses ``iter / max_iters``, for loops by epoch and by iteration, and makes all drops that are
    due, so none is missing after the last iteration. A resumed training continues with the drops in the
    checkpoint. The layers may be anywhere in the model, also in frozen stages.

    Args:
        group_lasso: Weight of ``group_lasso`` in the loss (CondenseNet's ImageNet training: 1e-5). It is
            added to the losses that the model returns, as ``loss_group_lasso``.
    """

    priority = 'HIGH'  # before an EMA hook copies the masks and the checkpoint is written

    def __init__(self, group_lasso: float = 0.0):
        self.group_lasso = group_lasso
        self._layers: dict[str, MaskedConv2d] = {}
        self._made: dict[str, int] = {}
        self._handle: Any = None

    def before_train(self, runner: Any) -> None:
        """Find the layers and their number of drops.

        Raises:
            CondensingError: There is no such layer.
        """
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        self._layers = masked_convs(model)
        if not self._layers:
            raise CondensingError(
                'CondensingHook: the model has no layer with learned sparsity in the masked form; '
                'take the hook out of custom_hooks'
            )
        self._made = {name: int(layer.drops[0]) for name, layer in self._layers.items()}
        if self.group_lasso:
            self._handle = model.register_forward_hook(self._add_penalty, with_kwargs=True)

    def _add_penalty(self, model: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        if kwargs.get('mode') != 'loss':
            return output
        return {**output, 'loss_group_lasso': self.group_lasso * group_lasso(model)}

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Make the drops that are due."""
        changed = 0
        for name, layer in self._layers.items():
            due = drops_due(layer.factor, runner.iter + 1, runner.max_iters)
            if due > self._made[name]:
                layer.condense(due)
                self._made[name] = due
                changed += 1
        if changed:
            left = sum(layer.factor - 1 - self._made[name] for name, layer in self._layers.items())
            runner.logger.info(f'condensing: drops in {changed} layers, {left} drops to come in all')

    def after_train(self, runner: Any) -> None:
        """Remove the penalty from the model's losses."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None
