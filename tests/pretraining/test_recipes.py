"""Recipes have the values of the papers, and leaf configs equal the composed configs."""

from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import PARAM_SCHEDULERS, DefaultScope
from networks import GOLDEN, cheapest_of_each_family
from torch import nn

from compactdet.config import strict
from compactdet.errors import UserError
from compactdet.pretraining import network  # noqa: F401  registers the preprocessor
from compactdet.pretraining.choice import PretrainChoice
from compactdet.pretraining.config import compose_config, list_recipes
from compactdet.pretraining.config import pretraining as wire
from compactdet.pretraining.options import PretrainOptions, config_from_options
from compactdet.pretraining.record_facts import protocol_of
from compactdet.training.runner import round_milestones, without_empty_phases

LEAVES = Path(__file__).parents[2] / 'det_configs' / 'pretrain'
CHOICES = {
    'menet_imagenet': PretrainChoice('menet_228_12x1_g3', 'imagenet'),
    'shufflenet_imagenet': PretrainChoice('shufflenet_1x_g3', 'imagenet', 'shufflenet'),
    'condensenetv2_imagenet': PretrainChoice('condensenetv2_a', 'imagenet', 'condensenetv2'),
    'condensenetv2_cifar10': PretrainChoice('condensenetv2_110_cifar', 'cifar10', 'condensenetv2_cifar'),
    'gmnet_cifar10': PretrainChoice('gmnet_a_cifar', 'cifar10', 'gmnet_augmented'),
    'menet_cifar10': PretrainChoice('menet_108_8x1_g3', 'cifar10'),
}


def cfg_of(recipe: str, **more: Any) -> Config:
    return config_from_options(
        PretrainOptions(PretrainChoice('mobilenet_0.25x', 'cifar10', recipe), **more)
    )


def rates(cfg: Config, steps: int = 10) -> list[float]:
    """Return the learning rate of each step by MMEngine's schedulers, with ``steps`` steps per epoch."""
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=cfg.optim_wrapper.optimizer.lr)
    with DefaultScope.overwrite_default_scope('mmengine'):
        schedulers = [
            PARAM_SCHEDULERS.build(s, default_args=dict(optimizer=optimizer, epoch_length=steps))
            for s in without_empty_phases(cfg.param_scheduler, steps)
        ]
    round_milestones(schedulers)
    found = []
    for _ in range(cfg.train_cfg.max_epochs * steps):
        found.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        for scheduler in schedulers:
            assert not scheduler.by_epoch
            scheduler.step()
    return found


def test_a_warm_up_shorter_than_a_step_is_left_out() -> None:
    assert rates(cfg_of('short', epochs=1), steps=5)[0] == pytest.approx(0.1 * 0.004)  # a fifth of 5 steps
    assert rates(cfg_of('short', epochs=1), steps=2)[0] == 0.004


@pytest.mark.parametrize(
    ('recipe', 'epochs', 'batch', 'optimizer'),
    [
        ('menet', 120, 256, dict(lr=0.1, momentum=0.9, nesterov=True, weight_decay=4e-5)),
        ('shufflenet', 240, 1024, dict(lr=0.5, momentum=0.9, weight_decay=4e-5)),
        ('condensenetv2', 350, 1024, dict(lr=0.4, momentum=0.9, nesterov=True, weight_decay=4e-5)),
        ('condensenetv2_cifar', 300, 64, dict(lr=0.1, momentum=0.9, nesterov=True, weight_decay=4e-5)),
        ('gmnet', 300, 64, dict(lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4)),
        ('gmnet_augmented', 300, 64, dict(lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4)),
        ('gmnet_svhn', 200, 64, dict(lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4)),
        ('gmnet_mnist', 200, 64, dict(lr=0.01, momentum=0.9, nesterov=True, weight_decay=1e-4)),
    ],
)
def test_values_of_the_papers(recipe: str, epochs: int, batch: int, optimizer: dict) -> None:
    cfg = cfg_of(recipe)
    assert cfg.train_cfg.max_epochs == epochs
    assert (cfg.train_dataloader.batch_size, cfg.auto_scale_lr.base_batch_size) == (batch, batch)
    assert cfg.optim_wrapper.optimizer.to_dict() == dict(type='SGD', **optimizer)
    assert cfg.recipe.name == recipe


def test_every_recipe_is_tested() -> None:
    tested = {'menet', 'shufflenet', 'condensenetv2', 'condensenetv2_cifar', 'short'}
    assert set(list_recipes()) == tested | {'gmnet', 'gmnet_augmented', 'gmnet_svhn', 'gmnet_mnist'}


def test_menets_rate_is_divided_by_10_every_30_epochs() -> None:
    lr = rates(cfg_of('menet'))
    for epoch, rate in ((0, 0.1), (29, 0.1), (30, 0.01), (59, 0.01), (60, 1e-3), (90, 1e-4), (119, 1e-4)):
        assert lr[10 * epoch] == pytest.approx(rate), epoch
    assert lr[299] == pytest.approx(0.1)


def test_shufflenets_rate_decreases_linearly_to_0() -> None:
    lr = rates(cfg_of('shufflenet'))
    assert lr == pytest.approx([0.5 * (1 - i / 2399) for i in range(2400)], abs=1e-9)


def test_condensenetv2s_rate_is_a_cosine_after_5_epochs_of_warmup() -> None:
    lr = rates(cfg_of('condensenetv2'))
    assert lr[0] == pytest.approx(0.1)
    assert lr[50] == pytest.approx(0.4)
    assert lr[50 + 1725] == pytest.approx(0.2, abs=1e-6)  # in the middle
    assert lr[-1] < 1e-6
    cifar = rates(cfg_of('condensenetv2_cifar'), 2)
    assert (cifar[0], cifar[300]) == (pytest.approx(0.1), pytest.approx(0.05))


@pytest.mark.parametrize(('recipe', 'epochs', 'first'), [('gmnet', 300, 0.1), ('gmnet_mnist', 200, 0.01)])
def test_gmnets_rate_decreases_at_half_and_three_quarters(recipe: str, epochs: int, first: float) -> None:
    lr = rates(cfg_of(recipe), 2)
    at = {share: lr[int(share * epochs * 2)] for share in (0, 0.49, 0.5, 0.74, 0.75)}
    assert list(at.values()) == pytest.approx([first, first, first / 10, first / 10, first / 100])


def test_epochs_scale_the_whole_schedule() -> None:
    whole, short = rates(cfg_of('menet'), 1), rates(cfg_of('menet', epochs=12), 10)
    assert short == pytest.approx(whole)
    assert len(rates(cfg_of('short', epochs=3))) == 30
    lr = rates(cfg_of('condensenetv2', epochs=35))  # half an epoch of warmup
    assert (lr[0], lr[5]) == (pytest.approx(0.1), pytest.approx(0.4))
    assert lr[-1] < 0.01
    lr = rates(cfg_of('gmnet', epochs=1), 7)  # milestones at 3.5 and 5.25 steps
    assert lr == pytest.approx([0.1] * 4 + [0.01] + [0.001] * 2)


@pytest.mark.parametrize('recipe', ['menet', 'shufflenet', 'condensenetv2'])
def test_evaluation_crops_224_of_256(recipe: str) -> None:
    cfg = compose_config(PretrainChoice('menet_228_12x1_g3', 'imagenet', recipe))
    resize, crop = cfg.test_dataloader.dataset.pipeline[:2]
    assert (resize.scale, resize.edge, crop.crop_size) == (256, 'short', 224)


def test_augmentation_depends_on_recipe_and_data_set() -> None:
    def steps(arch: str, dataset: str, recipe: str) -> list[str]:
        cfg = compose_config(PretrainChoice(arch, dataset, recipe))
        return [step['type'].rpartition('.')[2] for step in cfg.train_dataloader.dataset.pipeline]

    assert steps('gmnet_a_cifar', 'cifar10', 'gmnet') == ['PackInputs']
    assert steps('gmnet_a_cifar', 'cifar100', 'gmnet_augmented')[:2] == ['RandomCrop', 'RandomFlip']
    cifar = steps('condensenetv2_110_cifar', 'cifar10', 'condensenetv2_cifar')
    assert cifar == ['RandomCrop', 'RandomFlip', 'PackInputs']
    assert steps('gmnet_a_cifar', 'mnist', 'short') == [
        'RandomCrop',
        'PackInputs',
    ]  # digits are not flipped
    menet = steps('menet_228_12x1_g3', 'imagenet', 'menet')
    assert menet == ['RandomResizedCrop', 'RandomFlip', 'PackInputs']  # no color jitter
    assert 'RandAugment' in steps('condensenetv2_a', 'imagenet', 'condensenetv2')


@pytest.mark.parametrize('name', CHOICES)
def test_a_leaf_config_equals_the_composed_config(name: str) -> None:
    leaf, composed = strict.load(LEAVES / f'{name}.py').to_dict(), compose_config(CHOICES[name]).to_dict()
    assert leaf == composed
    text = strict.resolved_text(strict.load(LEAVES / f'{name}.py'))
    assert Config.fromstring(text, '.py').to_dict().keys() == leaf.keys() - {
        'work_dir',
        'resume',
        'load_from',
    }


def test_every_leaf_config_is_tested_and_names_its_command() -> None:
    leaves = sorted(LEAVES.glob('*.py'))
    assert {leaf.stem for leaf in leaves} == CHOICES.keys()
    for leaf in leaves:
        assert f'python tools/pretrain.py det_configs/pretrain/{leaf.name}' in leaf.read_text()


def test_size_and_condensing_depend_on_the_network() -> None:
    def cfg(arch: str, dataset: str = 'cifar10') -> Config:
        return compose_config(PretrainChoice(arch, dataset))

    assert cfg('menet_108_8x1_g3').model.data_preprocessor.size == 64
    assert cfg('gmnet_a_cifar').model.data_preprocessor.size == 32
    assert cfg('efficientnet_b1', 'imagenet').model.data_preprocessor.size == 240
    assert [hook.type for hook in cfg('condensenetv2_a').custom_hooks] == ['ProgressHook', 'CondensingHook']
    assert [hook.type for hook in cfg('menet_108_8x1_g3').custom_hooks] == ['ProgressHook']
    assert cfg('menet_108_8x1_g3').model.backbone.num_classes == 10
    assert cfg('menet_108_8x1_g3', 'cifar100').model.backbone.num_classes == 100


@pytest.mark.parametrize('arch', cheapest_of_each_family().values())
def test_a_training_step_of_every_family(arch: str) -> None:
    """One step on noise gives a finite loss and all gradients; the state dict is that of a weights file."""
    from mmpretrain.registry import MODELS
    from mmpretrain.structures import DataSample

    from backbones import build_classifier

    parts = wire(arch, 'cifar10', {'name': 'x', 'batch_size': 2})
    DefaultScope.get_instance('families', scope_name='mmpretrain')
    torch.manual_seed(0)
    model = MODELS.build(parts.model)
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    samples = [DataSample().set_gt_label(label) for label in (3, 9)]
    batch = model.data_preprocessor({'inputs': images, 'data_samples': samples}, True)
    size = min(GOLDEN[arch]['paper_size'], 64)
    assert batch['inputs'].shape == (2, 3, size, size)
    loss = model(**batch, mode='loss')['loss']
    loss.backward()
    assert torch.isfinite(loss)
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    with torch.device('meta'):
        plain = build_classifier(arch, 10).state_dict()
    own = model.backbone.state_dict()
    assert {k: v.shape for k, v in own.items()} == {k: v.shape for k, v in plain.items()}
    assert len(model.state_dict()) == len(own)


@pytest.mark.parametrize(
    ('choice', 'message'),
    [
        (PretrainChoice('mobilenet_0.25x', 'cifar10', 'shrot'), "no recipe 'shrot'; did you mean short"),
        (
            PretrainChoice('mobilenet_0.25x', 'cifar10', size=16),
            '--size 16 is smaller than the last stride of',
        ),
        (
            PretrainChoice('gmnet_a_cifar', 'cifar10', size=16),
            '--size 16 is smaller than the 32 pixels of CIFAR',
        ),
        (
            LEAVES.parent / 'menet_frcnn_shapes.py',
            'is not a pretraining config; train a detector with tools/train',
        ),
    ],
)
def test_invalid_choices(choice: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        config_from_options(PretrainOptions(choice))


def test_a_misspelled_key_of_mmpretrain_is_an_error() -> None:
    options = {'model.head.loss.loss_wieght': 2}
    with pytest.raises(UserError, match='did you mean loss_weight'):
        cfg_of('short', cfg_options=options)
    with pytest.raises(UserError, match='recipe is a variable of its config file'):
        cfg_of('short', cfg_options={'recipe.batch_size': 2})


def test_held_out_images_are_the_validation_split() -> None:
    cfg = cfg_of('short', hold_out=500)
    assert cfg.train_dataloader.dataset.hold_out == cfg.val_dataloader.dataset.hold_out == 500
    assert cfg.val_dataloader.dataset.split == 'val'
    assert cfg.test_dataloader.dataset.split == 'test'
    assert cfg.val_dataloader.dataset.pipeline == cfg.test_dataloader.dataset.pipeline
    assert protocol_of(cfg, {})['hold_out'] == 500
