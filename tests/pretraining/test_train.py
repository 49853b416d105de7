"""tools/pretrain.py end to end on a few synthetic images: its results, and their use."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from mmengine.dataset import default_collate
from mmengine.registry import DATASETS, MODELS

from backbones import Preprocessing, build_classifier
from backbones.sparsity import masked_convs
from backbones.weights import file_sha256, read_info, read_weights, save_weights
from compactdet.errors import UserError
from compactdet.pretraining import config as pretraining_config
from compactdet.pretraining.choice import PretrainChoice
from compactdet.pretraining.options import PretrainOptions
from compactdet.pretraining.train import train
from compactdet.records import record_file, results_table
from compactdet.weights.convert_sparse import convert_to_test_form
from compactdet.weights.verify import SMALL_IMAGE_SETS, accuracy, find_images, load_image

REPO = Path(__file__).parents[2]
ARCH = 'menet_108_8x1_g3'
COLORS = ((230, 40, 40), (40, 230, 40), (40, 40, 230))


@pytest.fixture(scope='module')
def colored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of images, each noise around one color: 60 for training, 30 for testing."""
    root = tmp_path_factory.mktemp('data') / 'colored'
    rng = np.random.default_rng(0)
    for split, number in (('train', 20), ('test', 10)):
        for name, color in zip(('blue', 'green', 'red'), COLORS, strict=True):
            (root / split / name).mkdir(parents=True)
            for i in range(number):
                image = np.clip(rng.normal(color, 60, (40, 48, 3)), 0, 255).astype(np.uint8)
                cv2.imwrite(str(root / split / name / f'{i}.png'), image)
    return root


QUICK = ['--cfg-options', 'train_dataloader.batch_size=10', 'train_dataloader.num_workers=0',
         'train_dataloader.persistent_workers=False', 'test_dataloader.num_workers=0',
         'test_dataloader.persistent_workers=False']  # fmt: skip


def command(root: Path, work_dir: Path, *more: str, arch: str = ARCH) -> list[str]:
    axes = ['--arch', arch, '--dataset', 'folder', '--data-root', str(root), '--size', '64']
    schedule = ['--epochs', '12', '--lr', '0.02']
    return [*axes, '--work-dir', str(work_dir), *schedule, '--seed', '5', *more, *QUICK]


def run(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(REPO / 'tools/pretrain.py'), *arguments],
        cwd=REPO, capture_output=True, text=True, check=False,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
    )  # fmt: skip


@pytest.fixture(scope='module')
def finished(colored: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Run folder and output of a finished run of the command."""
    folder = tmp_path_factory.mktemp('runs') / 'colored'
    done = run(*command(colored, folder, '--hold-out', '10'))
    assert (done.returncode, done.stderr) == (0, '')
    return folder, done.stdout


def test_it_learns_and_prints_the_results(finished: tuple[Path, str]) -> None:
    folder, out = finished
    record = record_file.read_pretraining(folder / 'record.json')
    test = record['metrics']['test']
    assert test['top1'] > 0.8  # chance: 1/3
    assert test['top5'] is None  # three classes
    assert f'{100 * test["top1"]:.2f}' in out
    assert 'epoch 12/12 · step 60/60' in out
    assert f'--dataset voc07 --init {folder}/weights.safetensors' in ''.join(out.split('\n'))


def test_content_of_the_record(finished: tuple[Path, str]) -> None:
    record = record_file.read_pretraining(finished[0] / 'record.json')
    assert (record['kind'], record['arch'], record['seed']) == ('pretraining', ARCH, 5)
    assert record['dataset']['name'] == 'colored'
    splits = record['dataset']['splits']
    assert {name: split['images'] for name, split in splits.items()} == {'train': 50, 'val': 10, 'test': 30}
    assert splits['train']['sha256'] == splits['val']['sha256'] != splits['test']['sha256']
    protocol = record['protocol']
    assert (protocol['hold_out'], protocol['selection'], protocol['recipe']) == (10, 'last', 'short')
    assert (protocol['size'], protocol['batch_size'], protocol['init']) == (64, 10, 'none')
    assert (record['training']['epochs'], record['training']['iterations']) == (12, 60)
    assert record['metrics']['val']['top1'] > 0.6
    assert record['init'] == {'class': 'none', 'file': None, 'sha256': None, 'loaded': None}
    assert record['weights']['sha256'] == file_sha256(finished[0] / 'weights.safetensors')
    assert record['costs']['params'] == sum(p.numel() for p in build_classifier(ARCH, 3).parameters())


def test_content_of_the_weights_file(finished: tuple[Path, str], colored: Path) -> None:
    file = finished[0] / 'weights.safetensors'
    state, info = read_weights(file)
    build_classifier(ARCH, 3).load_state_dict(state)  # strict
    record = record_file.read_pretraining(finished[0] / 'record.json')
    assert info.pretraining.data == 'colored'
    assert info.pretraining.top1 == pytest.approx(100 * record['metrics']['test']['top1'], abs=1e-3)
    assert info.pretraining.recipe == 'short: 12 epochs at 64x64'  # of all seeds
    assert info.pretraining.size == 64
    assert 'seed 5' in info.source
    assert info.preprocessing.channel_order == 'rgb'
    # The accuracy is that of these weights with the preprocessing of the file.
    (colored / 'test/.hidden').mkdir(exist_ok=True)
    measured = accuracy(file, find_images(colored / 'test'))
    assert measured['top1'] == pytest.approx(100 * record['metrics']['test']['top1'], abs=1e-4)


@pytest.mark.parametrize(('name', 'title'), [('folder', 'colored'), ('cifar10', 'CIFAR-10')])
def test_verify_has_the_preprocessing_of_the_training(
    tmp_path: Path, colored: Path, name: str, title: str, plain_text: None
) -> None:
    """Also for images smaller than the network's input."""
    if name == 'folder':
        root, size, classes = colored, 64, 3
        paths = [path for path, _ in find_images(root / 'test')]
    else:
        root, size, classes = tmp_path, 48, 10
        rng = np.random.default_rng(0)
        for split in ('train', 'test'):
            for label in range(classes):
                (root / split / f'c{label}').mkdir(parents=True)
                image = rng.integers(0, 256, (32, 32, 3), np.uint8)
                cv2.imwrite(str(root / split / f'c{label}' / 'x.png'), image)
        paths = [path for path, _ in find_images(root / 'test')]
    parts = pretraining_config.pretraining(
        ARCH, name, {'name': 'x', 'batch_size': 2}, size=size, data_root=str(root), num_classes=classes
    )
    samples = DATASETS.build(parts.test_dataloader['dataset'])
    preprocessor = MODELS.build(parts.model['data_preprocessor'])
    batch = default_collate([samples[i] for i in (0, len(samples) - 1)])
    assert samples.title == title
    trained = preprocessor(batch)['inputs']
    seen = [load_image(paths[i], Preprocessing(), size, whole=title in SMALL_IMAGE_SETS) for i in (0, -1)]
    torch.testing.assert_close(torch.stack(seen), trained, rtol=1e-5, atol=1e-5)


def test_initial_weights_of_a_detector(
    finished: tuple[Path, str], run_tool: Any, tiny_set: Path, tmp_path: Path
) -> None:
    config = tmp_path / 'tiny.py'
    dataset = f"type='VOCFormatDataset', data_root={str(tiny_set)!r}"
    from compactdet.data import shapes

    from tiny import TINY_CONFIG

    text = TINY_CONFIG.format(
        configs=REPO / 'det_configs', dataset=f'{dataset}, metainfo=dict(classes={(*shapes.CLASSES,)})'
    )
    config.write_text(text)
    file = finished[0] / 'weights.safetensors'
    options = ['--init', file, '--cfg-options', 'train_cfg.max_epochs=1']
    status, _, err = run_tool('train', config, '--work-dir', tmp_path / 'run', *options)
    assert (status, err) == (0, '')
    record = record_file.read(tmp_path / 'run/record.json')
    assert record['init']['class'] == record['protocol']['init'] == 'colored'
    assert record['init']['sha256'] == file_sha256(file)
    assert record['init']['loaded'] == {'backbone': 1.0, 'shared_head': 1.0}
    assert record['init']['pretraining']['recipe'] == read_info(file).pretraining.recipe
    # Tables include the record of the detector and skip that of the pretraining.
    folder = tmp_path / 'both'
    folder.mkdir()
    for name, source in (('a', finished[0]), ('b', tmp_path / 'run')):
        (folder / name).mkdir()
        (folder / name / 'record.json').write_bytes((source / 'record.json').read_bytes())
    assert results_table.find_records([str(folder)]) == [folder / 'b/record.json']
    status, out, _ = run_tool('table', folder, '--format', 'markdown')
    assert (status, out.count('colored weights')) == (0, 1)


def test_the_record_of_a_pretraining_is_an_error_for_detector_tools(finished: tuple[Path, str]) -> None:
    path = finished[0] / 'record.json'
    with pytest.raises(UserError, match=r'no record\.json .*pretrainings'):
        results_table.find_records([str(finished[0])])
    assert results_table.find_records([str(path)]) == [path]
    with pytest.raises(UserError, match=r'the record of a pretraining; give that of a detector'):
        record_file.read(path)
    with pytest.raises(UserError, match='the record of a pretraining'):
        results_table.rows([path])
    example = REPO / 'work_dirs_template/shapes_seed0/record.json'
    with pytest.raises(UserError, match=r'the record of a detector; give that of a pretraining'):
        record_file.read_pretraining(example)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda r: r.update(kind='pre'), r'\$.*unknown key "kind"'),
        (lambda r: r['metrics']['test'].update(top1=float('nan')), r'NaN'),
        (lambda r: r['metrics']['test'].update(top1=1.5), r'top1: 1\.5 does not match'),
        (lambda r: r.pop('weights'), r'missing key "weights"'),
        (lambda r: r['protocol'].update(size=999), r'keys\.protocol is .* edited after the run'),
    ],
)
def test_a_changed_record_is_an_error(
    finished: tuple[Path, str], tmp_path: Path, change: Any, message: str
) -> None:
    record = json.loads((finished[0] / 'record.json').read_text())
    change(record)
    (tmp_path / 'record.json').write_text(json.dumps(record))
    with pytest.raises(UserError, match=message):
        record_file.read_any(tmp_path / 'record.json')


def quick_options(root: Path, work_dir: Path, arch: str = ARCH, **more: Any) -> PretrainOptions:
    options = {key: json.loads(value.lower()) for key, value in (o.split('=') for o in QUICK[1:])}
    choice = PretrainChoice(arch, 'folder', size=64, data_root=str(root))
    return PretrainOptions(choice, str(work_dir), seed=5, lr=0.02, cfg_options=options, **more)


@pytest.fixture
def plain_text(plain_config_text: None) -> None:
    """Function-scoped ``plain_config_text``."""


def test_the_same_seed_gives_the_same_weights_and_a_finished_run_is_not_changed(
    finished: tuple[Path, str], colored: Path, tmp_path: Path, plain_text: None
) -> None:
    files = []
    for name in 'ab':
        path = train(quick_options(colored, tmp_path / name, epochs=1))
        files.append((path.parent / 'weights.safetensors').read_bytes())
    assert files[0] == files[1]
    with pytest.raises(UserError, match='is the record of a finished run, which is never overwritten'):
        train(quick_options(colored, tmp_path / 'a', epochs=1))
    again = train(quick_options(colored, tmp_path / 'a', epochs=1, resume='auto'))
    assert again == tmp_path / 'a/record.json'


def test_initial_weights(
    finished: tuple[Path, str], colored: Path, tmp_path: Path, plain_text: None
) -> None:
    """Also weights of another number of classes, with a new classifier."""
    file = finished[0] / 'weights.safetensors'
    path = train(quick_options(colored, tmp_path / 'same', init=str(file), epochs=1))
    record = record_file.read_pretraining(path)
    assert record['init'] == {
        'class': 'colored', 'file': file.name, 'sha256': file_sha256(file), 'loaded': 1.0,
    }  # fmt: skip
    assert record['metrics']['test']['top1'] > 0.6  # one more epoch
    thousand = tmp_path / 'thousand.safetensors'
    save_weights(thousand, build_classifier(ARCH).state_dict(), read_info(file))
    path = train(quick_options(colored, tmp_path / 'other', init=str(thousand), epochs=1))
    assert 0.9 < record_file.read_pretraining(path)['init']['loaded'] < 1
    assert len(read_weights(path.parent / 'weights.safetensors')[0]['head.fc.weight']) == 3


def test_learned_sparsity_condenses_and_converts(colored: Path, tmp_path: Path, plain_text: None) -> None:
    path = train(quick_options(colored, tmp_path / 'run', 'condensenetv2_a', epochs=2))
    file = path.parent / 'weights.safetensors'
    network = build_classifier('condensenetv2_a', 3)
    network.load_state_dict(read_weights(file)[0])
    assert all(layer.drops[0] == layer.drops[1] for layer in masked_convs(network).values())
    convert_to_test_form(file, tmp_path / 'converted.safetensors')
    converted = build_classifier('condensenetv2_a', 3, conventions={'sparsity': 'converted'})
    converted.load_state_dict(read_weights(tmp_path / 'converted.safetensors')[0])
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(converted.eval()(image), network.eval()(image), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ('arguments', 'status', 'message'),
    [
        (['--arch', ARCH], 2, '--dataset is missing'),
        (['x.py', '--arch', ARCH], 2, 'give a config file (x.py) or --arch and --dataset, not both'),
        (['--arch', ARCH, '--dataset', 'folder'], 2, '--dataset folder needs --data-root'),
        (['--arch', ARCH, '--dataset', 'cifar10', '--epochs', '0'], 2, '0 is not a positive integer'),
        (['--arch', 'menet_108', '--dataset', 'cifar10'], 1, "unknown arch 'menet_108'; near: "),
        (['--arch', ARCH, '--dataset', 'cifar10', '--lr', 'nan'], 2, 'nan is not positive'),
        (['--arch', ARCH, '--dataset', 'svhn', '--data-root', 'none'], 1, 'none: no such folder; put SVHN'),
        (['det_configs/menet_frcnn_shapes.py'], 1, 'is not a pretraining config; train a detector with'),
        (
            ['--arch', ARCH, '--dataset', 'cifar10', '--init', 'none.safetensors'], 1,
            'cannot read none.safetensors',
        ),
    ],
)  # fmt: skip
def test_errors_are_one_line(
    run_tool: Any, monkeypatch: Any, arguments: list[str], status: int, message: str
) -> None:
    monkeypatch.chdir(REPO)
    code, out, err = run_tool('pretrain', *arguments)
    assert code == status
    assert message in err
    assert status == 2 or (err.startswith('error: ') and err.count('\n') == 1 and 'Traceback' not in out)


@pytest.mark.parametrize('seed', [-1, 2**32])
def test_invalid_seeds(colored: Path, tmp_path: Path, plain_text: None, seed: int) -> None:
    options = quick_options(colored, tmp_path / 'run', epochs=1)
    options.seed = seed
    with pytest.raises(UserError, match=f'seed {seed} is not an integer from 0 to 4294967295'):
        train(options)


def test_a_resumed_training_keeps_protocol_and_seed(
    finished: tuple[Path, str], colored: Path, tmp_path: Path, plain_text: None
) -> None:
    state = str(finished[0] / 'epoch_12.pth')
    options = {'epochs': 12, 'hold_out': 10, 'resume': state}
    other = quick_options(colored, tmp_path / 'lr', **options)
    other.lr = 0.01
    with pytest.raises(
        UserError, match=r'another protocol .*: learning rate 0\.02, now 0\.01; resume with'
    ):
        train(other)
    other = quick_options(colored, tmp_path / 'seed', **options)
    other.seed = 6
    with pytest.raises(UserError, match='was trained with seed 5, not 6; set --seed to it'):
        train(other)
    path = train(quick_options(colored, tmp_path / 'same', **options))
    one, again = (record_file.read_pretraining(p) for p in (finished[0] / 'record.json', path))
    assert one['weights'] == again['weights']


def test_train_py_refuses_a_pretraining_config(run_tool: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(REPO)
    status, _, err = run_tool('train', 'det_configs/pretrain/menet_cifar10.py')
    assert status == 1
    assert '`python tools/pretrain.py det_configs/pretrain/menet_cifar10.py`' in err


def test_the_error_without_mmpretrain_says_how_to_install_it(tmp_path: Path) -> None:
    (tmp_path / 'mmpretrain.py').write_text("raise ImportError('absent')")
    done = subprocess.run(
        [sys.executable, str(REPO / 'tools/pretrain.py'), '--arch', ARCH, '--dataset', 'cifar10'],
        cwd=REPO, capture_output=True, text=True, check=False,
        env={**os.environ, 'PYTHONPATH': str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 1
    assert 'pretraining needs MMPretrain (absent); install it: pip install -e ".[pretrain]"' in done.stderr


@pytest.mark.shared
@pytest.mark.slow
def test_a_part_of_the_real_cifar10(shared: Path, tmp_path: Path) -> None:
    """800 images: better than chance after eight epochs."""
    options = PretrainOptions(
        PretrainChoice(ARCH, 'cifar10'), str(tmp_path / 'run'), data_root=str(shared / 'data/cifar10'),
        hold_out=49_200, epochs=8, cfg_options={'train_dataloader.batch_size': 20},
    )  # fmt: skip
    record = record_file.read_pretraining(train(options))
    assert record['dataset']['splits']['train']['images'] == 800
    assert record['metrics']['test']['top1'] > 0.15
