"""Other numbers of epochs, other batch sizes and trial runs rescale a schedule as computed by hand."""

from pathlib import Path

import pytest
from mmengine.config import Config

from compactdet.config.choice import DetectorChoice
from compactdet.config.options import TrainOptions, config_from_options
from compactdet.config.schedule import describe_long_warm_up, set_batch_size, set_epochs
from compactdet.errors import UserError
from compactdet.training.run_stages import build_datasets

SCHEDULES = Path(__file__).parents[2] / 'det_configs' / '_base_' / 'schedules'
SHAPES = DetectorChoice('menet_108_8x1_g3', 'frcnn_c4', 'shapes')


def schedule(name: str) -> Config:
    return Config.fromfile(SCHEDULES / f'{name}.py')


@pytest.mark.parametrize(
    ('epochs', 'milestones', 'in_steps', 'warm_up'),
    [(24, [16, 22], False, 1000), (6, [4, 5.5], True, 250), (1, [8 / 12, 11 / 12], True, 42)],
)
def test_epochs_scale_the_schedule(
    epochs: int, milestones: list[float], in_steps: bool, warm_up: int
) -> None:
    cfg = schedule('1x')
    set_epochs(cfg, epochs)
    first, second = cfg.param_scheduler
    assert cfg.train_cfg.max_epochs == second.end == epochs
    assert second.milestones == milestones
    assert second.get('convert_to_iter_based', False) == in_steps
    assert (first.begin, first.end) == (0, warm_up)


@pytest.mark.parametrize(('epochs', 'begin', 'interval'), [(3, 2, 1), (1, 1, 1), (12, 8, 2)])
def test_epochs_scale_the_validations(epochs: int, begin: int, interval: int) -> None:
    cfg = schedule('bccd')  # 6 epochs, validation from the fourth
    set_epochs(cfg, epochs)
    assert (cfg.train_cfg.val_begin, cfg.train_cfg.val_interval) == (begin, interval)
    assert cfg.param_scheduler[1].T_max == epochs


def test_a_training_without_epochs_is_refused() -> None:
    cfg = Config({'train_cfg': {'max_iters': 100}}, cfg_text=' ', filename='mine.py')
    with pytest.raises(UserError, match=r'--epochs 3: mine\.py has no train_cfg\.max_epochs'):
        set_epochs(cfg, 3)


def test_a_batch_size_scales_rate_and_warm_up() -> None:
    cfg = config_from_options(TrainOptions(SHAPES, batch_size=4))
    assert cfg.train_dataloader.batch_size == 4
    assert cfg.auto_scale_lr == {'enable': True, 'base_batch_size': 16}
    assert cfg.param_scheduler[0].end == 400  # 100 steps of 16 images


def test_a_batch_size_keeps_the_rule_of_a_config() -> None:
    cfg = schedule('1x')
    cfg.auto_scale_lr.enable = False
    cfg.train_dataloader = {'batch_size': 2}
    set_batch_size(cfg, 8)
    assert cfg.auto_scale_lr == {'enable': False, 'base_batch_size': 16}
    assert cfg.param_scheduler[0].end == 125


def test_a_trial_run_uses_few_images() -> None:
    cfg = config_from_options(TrainOptions(SHAPES, quick=True))
    assert cfg.train_cfg.max_epochs == 1
    splits = ('train', 'val', 'test')
    assert [cfg[f'{split}_dataloader'].dataset.indices for split in splits] == [160, 40, 40]
    assert cfg.param_scheduler[0].end == 1  # a tenth of 10 steps
    assert cfg.work_dir == 'work_dirs/menet_108_8x1_g3_frcnn_c4_shapes_quick'


def test_a_trial_run_on_a_smaller_set_uses_all_images(tiny_config: Path) -> None:
    cfg = config_from_options(TrainOptions(str(tiny_config), quick=True))
    found = {name: len(dataset) for name, dataset in build_datasets(cfg).items()}
    assert found == {'train': 4, 'val': 2, 'test': 3}


def test_a_warm_up_longer_than_the_training_is_said() -> None:
    cfg = config_from_options(TrainOptions(SHAPES))
    line = describe_long_warm_up(cfg, 99)
    assert line is not None
    assert line.startswith('the warm-up of 100 steps is longer than the training of 99: ')
    assert '--cfg-options param_scheduler.0.end=N' in line
    assert describe_long_warm_up(cfg, 100) is None
    shorter = TrainOptions(SHAPES, epochs=1, cfg_options={'param_scheduler.0.end': 99})  # is not scaled
    assert describe_long_warm_up(config_from_options(shorter), 99) is None
    assert describe_long_warm_up(config_from_options(shorter), 98) is not None
