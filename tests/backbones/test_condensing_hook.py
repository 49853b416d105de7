"""When learned sparsity condenses, what pulls weights to zero until then, and how the hook does both."""

from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.data import Dataset

from backbones.sparsity import (
    CondensingError,
    CondensingHook,
    LearnedGroupConv,
    SparseFeatureReactivation,
    converted_state_dict,
    drops_due,
    group_lasso,
    masked_convs,
)

# Schedule


@given(factor=st.integers(2, 250), total=st.integers(1, 1000))
def test_drops_follow_the_papers_schedule(factor: int, total: int) -> None:
    """Drop s of C-1 at the end of condensing stage s, each of total / (2 (C-1)) iterations."""
    stage = Fraction(total, 2 * (factor - 1))
    done = [0, 1, total // 3, total // 2, (total + 1) // 2, total]
    for iterations in done:
        ends = [s for s in range(1, factor) if s * stage <= iterations]
        assert drops_due(factor, iterations, total) == len(ends)
    assert drops_due(factor, (total + 1) // 2, total) == factor - 1  # none in the second half
    assert drops_due(factor, 0, total) == 0


def test_drops_of_a_short_run_by_hand() -> None:
    assert [drops_due(8, i, 28) for i in (1, 2, 3, 4, 13, 14, 28)] == [0, 1, 1, 2, 6, 7, 7]
    assert [drops_due(8, i, 4) for i in range(5)] == [0, 3, 7, 7, 7]
    assert drops_due(8, 1, 1) == 7


class Net(BaseModel):
    """Two layers, in a place of their own each; the loss is the output."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = LearnedGroupConv(8, 8, groups=2, factor=8)
        self.roi_head = nn.ModuleDict(
            dict(shared_head=SparseFeatureReactivation(8, 8, groups=8, factor=4, kernel_size=3))
        )

    def forward(self, inputs: list[Tensor], mode: str = 'tensor') -> Any:
        x = self.roi_head.shared_head(self.backbone(torch.stack(inputs)))
        return dict(loss_task=x.square().mean()) if mode == 'loss' else x


class Noise(Dataset):
    def __init__(self, length: int):
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return dict(inputs=torch.randn(8, 3, 3, generator=torch.Generator().manual_seed(index)))


class WatchedHook(CondensingHook):
    """Notes (iterations done, drops made in each layer) whenever that changes."""

    def after_train_iter(self, runner: Any, *args: Any, **kwargs: Any) -> None:
        super().after_train_iter(runner, *args, **kwargs)
        drops = tuple(int(layer.drops[0]) for layer in masked_convs(runner.model).values())
        if not hasattr(runner, 'drops') or runner.drops[-1][1] != drops:
            runner.drops = [*getattr(runner, 'drops', []), (runner.iter + 1, drops)]


def train(folder: Path, loop: dict, length: int, model: nn.Module | None = None, **kwargs: Any) -> Runner:
    """Trains the net with batches of one."""
    runner = Runner(
        model=model or Net(),
        work_dir=str(folder),
        train_dataloader=dict(
            batch_size=1, sampler=dict(type='DefaultSampler', shuffle=False), dataset=Noise(length)
        ),
        train_cfg=loop,
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01)),
        custom_hooks=[WatchedHook()],
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1, by_epoch=loop['by_epoch'])),
        experiment_name=str(folder),  # a runner's name must be its own
        log_level='ERROR',
        **kwargs,
    )
    runner.train()
    return runner


@pytest.mark.parametrize(
    ('loop', 'length'),
    [(dict(by_epoch=True, max_epochs=6), 4), (dict(by_epoch=False, max_iters=24), 5)],
    ids=['epochs', 'iterations'],
)
def test_hook_makes_each_drop_when_it_is_due(tmp_path: Path, loop: dict, length: int) -> None:
    runner = train(tmp_path, loop, length)
    # 7 drops, one each 12 / 7 iterations, in the first layer, 3 drops, one each 4, in the second
    assert runner.drops == [
        (1, (0, 0)),
        (2, (1, 0)),
        (4, (2, 1)),
        (6, (3, 1)),
        (7, (4, 1)),
        (8, (4, 2)),
        (9, (5, 2)),
        (11, (6, 2)),
        (12, (7, 3)),
    ]


@pytest.mark.parametrize('iterations', [1, 2, 3])
def test_no_drop_is_missed_in_few_iterations(tmp_path: Path, iterations: int) -> None:
    runner = train(tmp_path, dict(by_epoch=False, max_iters=iterations), 4)
    assert all((layer.drops[0] == layer.drops[1]).item() for layer in masked_convs(runner.model).values())
    saved = torch.load(tmp_path / f'iter_{iterations}.pth', weights_only=False)['state_dict']
    converted_state_dict(saved)  # the checkpoint of the last iteration has the last drop


def test_a_resumed_training_drops_nothing_twice(tmp_path: Path) -> None:
    loop = dict(by_epoch=True, max_epochs=6)
    torch.manual_seed(0)
    whole = train(tmp_path / 'whole', loop, 4)
    model = Net()
    resumed = train(
        tmp_path / 'resumed',
        loop,
        4,
        model,
        load_from=str(tmp_path / 'whole/epoch_2.pth'),
        resume=True,
    )
    assert resumed.drops[0] == (9, (5, 2))  # epoch 2 ended at iteration 8 with (4, 2)
    assert [entry for entry in whole.drops if entry[0] > 8] == resumed.drops
    for a, b in zip(whole.model.state_dict().values(), resumed.model.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b)


def test_a_condensed_network_is_trained_further_as_it_is(tmp_path: Path) -> None:
    model = Net()
    for layer in masked_convs(model).values():
        layer.condense(layer.factor - 1)
    masks = [layer.mask.clone() for layer in masked_convs(model).values()]
    train(tmp_path, dict(by_epoch=False, max_iters=4), 4, model)
    for mask, layer in zip(masks, masked_convs(model).values(), strict=True):
        assert torch.equal(mask, layer.mask)


def test_hook_without_a_layer_says_so() -> None:
    hook = HOOKS.build(dict(type='CondensingHook'))
    with pytest.raises(CondensingError, match=r'no layer with learned sparsity .* take the hook out'):
        hook.before_train(SimpleNamespace(model=nn.Linear(1, 1)))


# Group lasso


def test_penalty_and_gradient_are_the_closed_formulas() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        LearnedGroupConv(6, 4, groups=2, factor=3),
        SparseFeatureReactivation(4, 6, groups=2, factor=3),  # has no part in it
        LearnedGroupConv(6, 4, groups=2, factor=3),
    ).double()
    network[0].conv.condense(1)
    network[2].conv.condense(2)  # finished
    weight = network[0].conv.weight
    expected, gradient = 0.0, torch.zeros_like(weight)
    for g in range(2):
        for j in range(6):
            if network[0].conv.mask[g, j]:
                column = weight.detach()[g::2, j, 0, 0]
                norm = column.square().sum().sqrt()
                expected += norm
                gradient[g::2, j, 0, 0] = column / norm
    penalty = group_lasso(network)
    assert penalty.item() == pytest.approx(float(expected), rel=1e-12)
    penalty.backward()
    torch.testing.assert_close(weight.grad, gradient)
    assert [name for name, p in network.named_parameters() if p.grad is not None and p.grad.any()] == [
        '0.conv.weight'
    ]
    network[0].conv.condense(2)
    assert group_lasso(network) == 0


def test_a_column_of_zeros_has_gradient_zero() -> None:
    layer = LearnedGroupConv(4, 4, groups=2, factor=2)
    nn.init.zeros_(layer.conv.weight)
    group_lasso(layer).backward()
    assert (layer.conv.weight.grad == 0).all()


@pytest.mark.parametrize('accumulated', [1, 2])
def test_hook_adds_the_penalty_to_the_loss(accumulated: int) -> None:
    """Also where gradients of several iterations make a step: its weight stays what it is."""
    torch.manual_seed(0)
    model, reference = Net(), Net()
    reference.load_state_dict(model.state_dict())
    batches = [dict(inputs=[Noise(2)[i]['inputs']]) for i in range(accumulated)]

    for batch in batches:
        (reference(**batch, mode='loss')['loss_task'] / accumulated).backward()
    (0.5 * group_lasso(reference)).backward()
    torch.optim.SGD(reference.parameters(), lr=0.01).step()

    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.01), accumulative_counts=accumulated)
    wrapper.initialize_count_status(model, 0, accumulated)
    hook = CondensingHook(group_lasso=0.5)
    hook.before_train(SimpleNamespace(model=model))
    for batch in batches:
        logged = model.train_step(batch, wrapper)
        torch.testing.assert_close(logged['loss_group_lasso'], logged['loss'] - logged['loss_task'])
    for mine, other in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(mine, other)
    assert model(**batches[0]).shape == (1, 8, 3, 3)  # no loss, no penalty
    hook.after_train(SimpleNamespace(model=model))
    assert model(**batches[0], mode='loss').keys() == {'loss_task'}
