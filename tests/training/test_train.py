"""tools/train.py end to end on nine synthetic images: results, reproducibility and resume."""

import json
import runpy
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import mmdet
import pytest
import torch
from mmengine.config import Config
from torch import Tensor

from backbones import build_classifier
from backbones.weights import file_sha256, save_weights
from compactdet.config import strict
from compactdet.config.options import TrainOptions, check_initial_weights, config_from_options
from compactdet.data import shapes
from compactdet.data.voc_files import read_split
from compactdet.records import record_file
from compactdet.training.checkpoints import read_checkpoint
from compactdet.training.train import train

REPO = Path(__file__).parents[2]
CONFIGS = REPO / 'det_configs'
STOCK = Path(mmdet.__file__).parent / '.mim' / 'tools'
METRIC = 'voc/ap50_11point'

pytestmark = pytest.mark.usefixtures('plain_config_text')


def weights(run: Path, name: str = 'epoch_2.pth') -> dict[str, Tensor]:
    return read_checkpoint(run / name)['state_dict']


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def listing(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob('*')}


# Results of a run


def test_the_record_states_model_and_data(tiny_run: Path, tiny_set: Path) -> None:
    record = record_file.read(tiny_run / 'record.json')
    assert (record['arch'], record['family']) == ('menet_108_8x1_g3', 'MENet')
    assert (record['detector'], record['seed']) == ('frcnn_c4', 3)
    assert record['init'] == {
        'class': 'none',
        'file': None,
        'sha256': None,
        'loaded': {'backbone': None, 'shared_head': None},
        'pretraining': None,
    }
    assert record['dataset']['classes'] == list(shapes.CLASSES)
    splits = record['dataset']['splits']
    assert {name: split['images'] for name, split in splits.items()} == {'train': 4, 'val': 2, 'test': 3}
    for name, split in splits.items():
        ids = read_split(tiny_set / split['ann_file'])
        assert ids[0].startswith(name)
        text = ''.join((tiny_set / f'Annotations/{image_id}.xml').read_text() for image_id in ids)
        assert split['boxes'] == text.count('<object>')
        assert split['difficult'] == text.count('<difficult>1')
        assert split['dropped'] == []
        assert split.get('also_in_train') == (None if name == 'train' else [])
    assert len({split['annotations_sha256'] for split in splits.values()}) == 3


def test_the_record_states_test_images_that_are_training_images(
    tiny_run: Path, tiny_config: Path, tiny_set: Path, tmp_path: Path
) -> None:
    data = shutil.copytree(tiny_set, tmp_path / 'data')
    with (data / 'ImageSets/Main/test.txt').open('a') as file:
        file.write('train_00001\n')
    options = {'train_cfg.max_epochs': 1, 'allow_leaks': True}
    run = TrainOptions(str(tiny_config), str(tmp_path / 'run'), data_root=str(data), cfg_options=options)
    record = record_file.read(train(run))
    same = [{'image': 'train_00001.jpg', 'train_image': 'train_00001.jpg'}]
    assert record['dataset']['splits']['test']['also_in_train'] == same
    assert record['protocol']['also_in_train'] == {'test': 1}
    assert 'also_in_train' not in record_file.read(tiny_run / 'record.json')['protocol']


def test_the_record_states_training_metrics_and_costs(tiny_run: Path) -> None:
    record = record_file.read(tiny_run / 'record.json')
    facts = record['training']
    assert (facts['epochs'], facts['iterations'], facts['batch_size']) == (2, 4, 2)
    assert facts['images_per_s'] > 0
    metrics = record['metrics']
    assert facts['chosen']['metric'] == METRIC
    assert facts['chosen']['value'] == metrics['val'][METRIC]
    assert facts['chosen']['epoch'] in (1, 2)
    assert (tiny_run / facts['chosen']['checkpoint']).is_file()
    for values in metrics.values():
        assert {METRIC, 'coco/ap'} <= values.keys()
        assert all(value is None or 0 <= value <= 1 for value in values.values())
    costs = record['costs']
    assert {costs['at_224'][side] for side in ('height', 'width')} == {224}
    assert {costs['at_input'][side] for side in ('height', 'width')} == {64}
    assert costs['at_input']['backbone_macs'] < costs['at_224']['backbone_macs']
    assert costs['params']['total'] == sum(
        value.numel()
        for key, value in weights(tiny_run).items()
        if 'running' not in key and 'num_b' not in key
    )


def test_the_record_has_the_composed_config(tiny_run: Path, tiny_config: Path) -> None:
    config = record_file.read(tiny_run / 'record.json')['config']
    assert config['file'] == 'tiny.py'
    assert config['text'] == strict.resolved_text(
        config_from_options(TrainOptions(str(tiny_config), seed=3))
    )
    cfg = Config.fromstring(config['text'], '.py')
    assert cfg.randomness.seed == 3
    assert cfg.model.backbone.bn_policy == 'train'


def test_no_temporary_file_is_left(tiny_run: Path) -> None:
    names = [path.name for path in tiny_run.rglob('*') if path.is_file()]
    assert {'record.json', 'epoch_1.pth', 'epoch_2.pth'} <= {*names}
    assert [name for name in names if name.endswith(('.part', '.tmp')) or name.startswith('.')] == ['.lock']


# The command


@pytest.fixture(scope='module')
def one_epoch(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of a run of one epoch, seed 4."""
    folder = tmp_path_factory.mktemp('runs') / 'one'
    options = TrainOptions(str(tiny_config), str(folder), seed=4, cfg_options={'train_cfg.max_epochs': 1})
    return train(options).parent


def test_the_same_seed_gives_the_same_run(
    run_tool: Any, tiny_run: Path, tiny_config: Path, tmp_path: Path
) -> None:
    status, out, err = run_tool('train', tiny_config, '--work-dir', tmp_path / 'again', '--seed', '3')
    assert (status, err) == (0, '')
    assert 'epoch 2/2 · step 4/4 · loss' in out
    assert 'crescent' in out
    assert f'record and checkpoints: {tmp_path}/again' in out
    assert same(weights(tmp_path / 'again'), weights(tiny_run))
    one, other = (record_file.read(run / 'record.json') for run in (tmp_path / 'again', tiny_run))
    assert one['metrics'] == other['metrics']
    assert one['keys'] == other['keys']
    assert one['command'].startswith('python tools/train.py ')
    assert one['command'].endswith('--seed 3')


def test_another_seed_gives_another_run(tiny_run: Path, one_epoch: Path) -> None:
    assert record_file.read(one_epoch / 'record.json')['seed'] == 4
    assert not same(weights(one_epoch, 'epoch_1.pth'), weights(tiny_run, 'epoch_1.pth'))


def test_a_finished_run_is_not_changed(run_tool: Any, tiny_run: Path, tiny_config: Path) -> None:
    before = listing(tiny_run)
    for more in ([], ['--resume']):
        status, _, err = run_tool('train', tiny_config, '--work-dir', tiny_run, *more)
        assert status == 1
        assert 'is the record of a finished run, which is never overwritten (' in err
    assert listing(tiny_run) == before


def test_resume_from_the_last_checkpoint(
    run_tool: Any, one_epoch: Path, tiny_config: Path, tmp_path: Path
) -> None:
    run = tmp_path / 'stopped'
    shutil.copytree(one_epoch, run)
    (run / 'record.json').unlink()
    before = listing(one_epoch)
    status, out, err = run_tool('train', tiny_config, '--work-dir', run, '--resume', '--seed', '4')
    assert (status, err) == (0, '')
    assert 'step 4/4' in out
    record = record_file.read(run / 'record.json')
    assert (record['training']['epochs'], record['training']['iterations']) == (2, 4)
    assert record['seed'] == 4
    assert (run / record['training']['chosen']['checkpoint']).is_file()
    assert same(weights(run, 'epoch_1.pth'), weights(one_epoch, 'epoch_1.pth'))
    assert not same(weights(run), weights(one_epoch, 'epoch_1.pth'))
    assert 'resumed epoch: 1, iter: 2' in ''.join(log.read_text() for log in run.rglob('*.log'))
    assert listing(one_epoch) == before  # also its best checkpoint, to which last_checkpoint's path leads


# Initial weights


def test_initial_weights_are_in_the_record(
    weights_info: Any, run_tool: Any, tiny_config: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    file = tmp_path / 'init.safetensors'
    info = replace(weights_info, pretraining=replace(weights_info.pretraining, recipe='none'))
    save_weights(file, build_classifier(info.arch).state_dict(), info)
    options = ['--init', file, '--cfg-options', 'train_cfg.max_epochs=1']
    status, out, err = run_tool('train', tiny_config, '--work-dir', tmp_path / 'run', *options)
    assert (status, err) == (0, '')
    assert 'started from init.safetensors' in out
    assert record_file.read(tmp_path / 'run' / 'record.json')['init'] == {
        'class': 'noise',
        'file': 'init.safetensors',
        'sha256': file_sha256(file),
        'loaded': {'backbone': 1.0, 'shared_head': 1.0},
        'pretraining': {'data': 'noise', 'recipe': 'none', 'top1': 0.1, 'top5': None},
    }
    log = ''.join(log.read_text() for log in (tmp_path / 'run').rglob('*.log'))
    assert log.count(f'entries of {info.arch} from {file}') >= 2


def test_random_weights_are_trained_in_all_layers() -> None:
    cfg = config_from_options(TrainOptions(str(CONFIGS / 'mobilenet_frcnn_voc.py'), init='none'))
    for part in (cfg.model.backbone, cfg.model.roi_head.shared_head):
        assert (part.init_cfg, part.bn_policy) == (None, 'train')
    check_initial_weights(cfg)


@pytest.mark.parametrize(
    ('config', 'source'),
    [('menet_frcnn_voc', 'weights.py list menet_'), ('shufflenet_frcnn_voc', 'put it at weights/')],
)
def test_absent_initial_weights_are_an_error(
    run_tool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: str, source: str
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = run_tool('train', CONFIGS / f'{config}.py', '--data-root', 'absent')
    assert (status, out) == (1, '')
    assert err.count('\n') == 1
    assert err.startswith('error: ')
    for words in ('needs its ImageNet weights', source, '`--init none`'):
        assert words in err
    assert [*tmp_path.iterdir()] == []


# MMDetection's own tools

stock = pytest.mark.skipif(not STOCK.is_dir(), reason='this mmdet ships no tools')


def logged(folder: Path) -> dict[str, float]:
    """Return the metrics that a test wrote into the folder of its log."""
    (file,) = (path for path in folder.glob('*/*.json') if path.stem == path.parent.name)
    return json.loads(file.read_text())


@stock
def test_mmdetections_own_tools_give_the_same_results(
    tiny_run: Path, tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('LOCAL_RANK', '0')  # the tools set it; undone after the test
    options = ['--cfg-options', 'randomness.seed=3', 'train_cfg.max_epochs=1']
    command = ['train.py', tiny_config, '--work-dir', tmp_path / 'train', *options]
    monkeypatch.setattr(sys, 'argv', [*map(str, command)])
    runpy.run_path(str(STOCK / 'train.py'), run_name='__main__')
    assert same(weights(tmp_path / 'train', 'epoch_1.pth'), weights(tiny_run, 'epoch_1.pth'))

    record = record_file.read(tiny_run / 'record.json')
    checkpoint = tiny_run / record['training']['chosen']['checkpoint']
    command = ['test.py', tiny_run / 'tiny.py', checkpoint, '--work-dir', tmp_path / 'test']
    monkeypatch.setattr(sys, 'argv', [*map(str, command)])
    runpy.run_path(str(STOCK / 'test.py'), run_name='__main__')  # with the config in the run folder
    metrics = logged(tmp_path / 'test')
    expected = {name: value for name, value in record['metrics']['test'].items() if value is not None}
    for name in [name for name in expected if name.endswith(('_low95', '_high95'))]:
        del expected[name]  # computed by tools/train.py only
    assert {name: metrics[name] for name in expected} == expected


@stock
@pytest.mark.slow
def test_mmdetections_own_tools_as_programs(tiny_set: Path, tmp_path: Path) -> None:
    """Run train.py with a leaf config, and test.py, which imports MMDetection first, with the saved one."""
    data = {'type': 'VOCFormatDataset', 'data_root': str(tiny_set), 'metainfo.classes': (*shapes.CLASSES,)}
    options = ['--cfg-options', 'train_cfg.max_epochs=1', 'train_cfg.val_interval=1']
    for loader in ('train', 'val', 'test'):
        options += [f'{loader}_dataloader.dataset.{key}={value}' for key, value in data.items()]
    run = tmp_path / 'run'
    config = CONFIGS / 'menet_frcnn_shapes.py'
    for command in (
        [STOCK / 'train.py', config, '--work-dir', run, *options],
        ['-m', 'backbones', STOCK / 'test.py', run / config.name, run / 'epoch_1.pth'],
    ):
        done = subprocess.run(
            [sys.executable, *map(str, command)], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    assert METRIC in logged(run)
