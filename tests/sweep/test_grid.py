from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from compactdet.errors import UserError
from compactdet.records.run_identity import RunIdentity, difference, has_other_locations
from compactdet.sweep import grid
from compactdet.sweep.grid_file import read_yaml
from compactdet.sweep.jobs import TOOLS, Suite

AXES = {'archs': ['a', 'b'], 'detectors': ['frcnn_c4'], 'datasets': ['shapes', 'bccd']}


def identity(config: dict, init: str | None = None) -> RunIdentity:
    return RunIdentity('a', 0, init, config)


def names(content: dict) -> list[str]:
    return [job.name for job in grid.jobs(content, 'grid')]


def test_a_grid_is_a_product_seed_after_seed():
    assert names({**AXES, 'seeds': [0, 1], 'init': ['none']}) == [
        f'{arch}_frcnn_c4_{data}_random_seed{seed}'
        for seed in (0, 1)
        for arch in ('a', 'b')
        for data in ('shapes', 'bccd')
    ]


def test_blocks_are_a_union_and_the_same_run_counts_once():
    content = {**AXES, 'blocks': [{'archs': ['a']}, {'datasets': ['bccd'], 'seeds': [0, 1]}]}
    assert names(content) == [
        'a_frcnn_c4_shapes_seed0',
        'a_frcnn_c4_bccd_seed0',  # of both
        'b_frcnn_c4_bccd_seed0',
        'a_frcnn_c4_bccd_seed1',
        'b_frcnn_c4_bccd_seed1',
    ]


def test_two_runs_never_share_a_folder():
    content = {**AXES, 'blocks': [{}, {'lr': 0.1}]}
    with pytest.raises(
        UserError,
        match=r'blocks\[1\]: two unlike runs would share the folder a_frcnn_c4_shapes_seed0; .* a name',
    ):
        names(content)
    content['blocks'][1]['name'] = 'lr0.1'
    assert 'b_frcnn_c4_bccd_lr0.1_seed0' in names(content)
    assert len(set(names(content))) == 8


def test_a_pretraining_stands_once_before_the_first_run_that_needs_it():
    pretrain = {'dataset': 'cifar10', 'recipe': 'short'}
    jobs = grid.jobs({**AXES, 'datasets': ['bccd'], 'seeds': [0, 1], 'pretrain': pretrain}, 'grid')
    assert [(job.name, job.needs) for job in jobs] == [
        ('a_pretraining_cifar10_short_seed0', None),
        ('a_frcnn_c4_bccd_from_cifar10_short_seed0_seed0', 'a_pretraining_cifar10_short_seed0'),
        ('b_pretraining_cifar10_short_seed0', None),
        ('b_frcnn_c4_bccd_from_cifar10_short_seed0_seed0', 'b_pretraining_cifar10_short_seed0'),
        ('a_frcnn_c4_bccd_from_cifar10_short_seed0_seed1', 'a_pretraining_cifar10_short_seed0'),
        ('b_frcnn_c4_bccd_from_cifar10_short_seed0_seed1', 'b_pretraining_cifar10_short_seed0'),
    ]
    pretrain['seed'] = 'each'
    jobs = grid.jobs({**AXES, 'datasets': ['bccd'], 'seeds': [0, 1], 'pretrain': pretrain}, 'grid')
    needs = {job.name: job.needs for job in jobs}
    assert needs['a_frcnn_c4_bccd_from_cifar10_short_seed1_seed1'] == 'a_pretraining_cifar10_short_seed1'
    assert len(jobs) == 8


def test_commands_say_what_the_grid_says(tmp_path):
    content = {
        'archs': ['timm:x/y'], 'detectors': ['retinanet_fpn'], 'datasets': ['bccd'], 'seeds': [3],
        'init': ['w/{arch}.safetensors'], 'frozen_stages': [2], 'schedule': '2x', 'lr': 0.5,
        'cfg_options': {'train_cfg': {'max_epochs': 1}, 'a.b': ['p', 2, [True, None]]},
        'data_root': {'bccd': 'some/where'}, 'amp': True,
    }  # fmt: skip
    (job,) = grid.jobs(content, 'grid')
    assert job.name == 'timm-x-y_retinanet_fpn_bccd_from_timm-x-y_frozen2_seed3'
    command = Suite(tmp_path).command(job, resume=True)
    assert command[1:] == [
        str(TOOLS / 'train.py'), '--resume', '--arch', 'timm:x/y', '--detector', 'retinanet_fpn',
        '--dataset', 'bccd', '--schedule', '2x', '--seed', '3', '--init', 'w/timm-x-y.safetensors',
        '--lr', '0.5', '--data-root', 'some/where', '--amp', '--work-dir', str(tmp_path / job.name),
        '--cfg-options', 'train_cfg.max_epochs=1', 'a.b=[p,2,[True,None]]',
        'model.backbone.frozen_stages=2',
    ]  # fmt: skip
    pretrain = {'dataset': 'cifar10', 'recipe': 'short', 'epochs': 2, 'seed': 7, 'data_root': 'd'}
    first, second = grid.jobs(
        {'archs': ['a'], 'detectors': ['frcnn_c4'], 'datasets': ['bccd'], 'pretrain': pretrain}, 'grid'
    )
    assert Suite(tmp_path).command(first, resume=False)[1:] == [
        str(TOOLS / 'pretrain.py'), '--arch', 'a', '--dataset', 'cifar10', '--recipe', 'short',
        '--epochs', '2', '--seed', '7', '--data-root', 'd', '--work-dir', str(tmp_path / first.name),
    ]  # fmt: skip
    start = Suite(tmp_path).command(second, resume=False)
    assert start[start.index('--init') + 1] == str(tmp_path / first.name / 'weights.safetensors')


@pytest.mark.parametrize(
    ('text', 'number'),
    [('1e-3', 0.001), ('5E-4', 0.0005), ('1.5e+2', 150.0), ('.5e1', 5.0), ('-2.e0', -2.0)],
)
def test_numbers_with_an_exponent_need_no_point(tmp_path, text, number):
    (tmp_path / 'grid.yaml').write_text(f'lr: {text}\nname: e3x\n')
    assert read_yaml(tmp_path / 'grid.yaml') == {'lr': number, 'name': 'e3x'}


def test_patterns_stand_for_networks():
    content = {**AXES, 'archs': ['a*', 'b'], 'datasets': ['bccd']}
    jobs = grid.jobs(content, 'grid', lambda pattern: {'a*': ['a1', 'a2']}[pattern])
    assert [job.arch for job in jobs] == ['a1', 'a2', 'b']
    with pytest.raises(UserError, match="no network fits 'x\\*'"):
        grid.jobs({**content, 'archs': ['x*']}, 'grid', lambda pattern: [])


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'seed': [0]}, "unknown key 'seed'; did you mean seeds"),
        ({'archs': 'a'}, "archs: 'a' is no list"),
        ({'archs': []}, r'archs: \[\] is no list'),
        ({'archs': ['a', 'a']}, 'occurs twice'),
        ({'archs': [1]}, 'archs: 1 is no text'),
        ({'detectors': ['frcnn_c5']}, "no 'frcnn_c5'; did you mean frcnn_c4"),
        ({'datasets': ['voc']}, "no 'voc'; did you mean voc07"),
        ({'datasets': ['custom']}, "'custom' needs its folder"),
        ({'seeds': [True]}, 'seeds: True is no whole number'),
        ({'seeds': [-1]}, 'seeds: -1 is not from 0 to 4294967295'),
        ({'seeds': [2**32]}, 'seeds: 4294967296 is not from 0'),
        ({'archs': ['a' * 250]}, 'longer than the name of a folder can be'),
        ({'init': ['x/w.safetensors', 'y/w.safetensors']}, 'two unlike runs would share the folder'),
        ({'frozen_stages': ['2']}, "frozen_stages: '2' is no whole number"),
        ({'lr': 'fast'}, "lr: 'fast' is no number"),
        ({'lr': 0}, 'lr: 0 is not positive'),
        ({'lr': float('nan')}, 'lr: nan is not positive'),
        ({'data_root': 'd'}, "data_root: 'd' is no mapping"),
        ({'data_root': {'bcd': 'd'}}, "data_root: unknown key 'bcd'; did you mean bccd"),
        ({'cfg_options': 3}, 'neither a mapping nor a list of KEY=VALUE'),
        ({'cfg_options': {'a': 'two words'}}, "a: the text 'two words' cannot be given"),
        ({'init': ['pretraining']}, 'belong together'),
        ({'pretrain': {'dataset': 'cifar10'}, 'init': ['none']}, 'belong together'),
        ({'pretrain': {'recipe': 'short'}}, 'no mapping with a dataset'),
        ({'pretrain': {'dataset': 'c', 'epoch': 1}}, "unknown key 'epoch'; did you mean epochs"),
        ({'pretrain': {'dataset': 'c', 'epochs': 0}}, 'epochs: 0 is not positive'),
        ({'blocks': []}, r'blocks: \[\] is no list'),
        ({'blocks': [3]}, r'blocks\[0\]: 3 is no mapping'),
        ({'blocks': [{}, {'arch': ['a']}]}, r"blocks\[1\]: unknown key 'arch'; did you mean archs"),
    ],
)
def test_what_is_no_grid_is_refused(change, message):
    with pytest.raises(UserError, match=f'grid.*{message}'):
        names({**AXES, **change})


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('archs: [a]\narchs: [b]\n', "line 2: the key 'archs' occurs twice"),
        ('1: 2\n', 'the key 1 is no text'),
        ('- a\n', 'a grid is a mapping'),
        ('archs: [', 'not a YAML file'),
        ('archs: !!python/object/apply:os.system [true]\n', 'not a YAML file'),
        ('\x00', 'not a YAML file'),
        ('archs: [a]\n', "missing 'detectors'"),
        ('a: &a [*a]\n', 'recursive'),
    ],
)
def test_a_bad_grid_file_is_one_line(tmp_path, run_tool, text, message):
    path = tmp_path / 'grid.yaml'
    path.write_text(text)
    status, _, err = run_tool('sweep', path, '--out', tmp_path / 'out')
    assert status == 1
    assert err.startswith(f'error: {path}: ')
    assert err.count('\n') == 1
    assert message in err
    assert not (tmp_path / 'out').exists()


def test_no_grid_and_bad_usage(tmp_path, run_tool):
    status, _, err = run_tool('sweep', tmp_path / 'no.yaml')
    assert (status, err.count('\n')) == (1, 1)
    assert 'cannot read the grid file' in err
    status, _, err = run_tool('sweep', '--out', tmp_path / 'none')
    assert (status, err.count('\n')) == (1, 1)
    assert 'no sweep there yet' in err
    assert (
        "argument --jobs: 'x' is no whole number above 0" in run_tool('sweep', 'g.yaml', '--jobs', 'x')[2]
    )
    for words in ('', '--archs a --out x', 'g.yaml --lr 1', 'g.yaml --jobs 0', 'g.yaml --slurm --ray',
                  'g.yaml --retries -1', '--pretrain-epochs 3 --out x'):  # fmt: skip
        assert run_tool('sweep', *words.split())[0] == 2, words


def test_the_grid_of_a_command_line_is_that_of_its_file():
    content = {**AXES, 'seeds': [0, 1], 'pretrain': {'dataset': 'cifar10', 'seed': 'each'}, 'lr': 0.1}
    assert yaml.safe_load(grid.dump(content)) == content


def test_a_composed_config_is_known_again_by_its_text(tmp_path):
    from compactdet.config import strict
    from compactdet.sweep.jobs import compose_job_config

    content = {'archs': ['menet_108_8x1_g3'], 'detectors': ['frcnn_c4'], 'datasets': ['bccd'], 'seeds': [3]}
    suite = Suite(tmp_path)
    (job,) = grid.jobs({**content, 'init': ['none']}, 'grid')
    text = strict.resolved_text(compose_job_config(job, tmp_path))
    template = Path(__file__).parents[2] / 'work_dirs_template' / 'bccd_random_seed0' / 'record.json'
    record = {**json.loads(template.read_text()), 'seed': 3, 'config': {'text': text}}
    assert difference(suite.identity(job), suite.stated(job, record)) is None

    (other,) = grid.jobs({**content, 'init': ['none'], 'lr': 0.5}, 'grid')
    line = 'its optim_wrapper.optimizer.lr is 0.001, not 0.5'
    assert difference(suite.identity(other), suite.stated(other, record)) == line


def test_what_moves_no_figure_is_not_what_a_run_is():
    def of(path, sha256):
        return identity({'model': {'backbone': {'init_cfg': {'checkpoint': path}}}}, sha256)

    assert difference(of('a/x', '1'), of('b/x', '1')) is None
    assert 'its init is "2", not "1"' in str(difference(of('a/x', '1'), of('a/x', '2')))
    resumed = identity({'lr': 1})
    assert difference(identity({'lr': 1, 'load_from': None, 'work_dir': 'w'}), resumed) is None
    assert difference(identity({'lr': 1, 'load_from': 'x'}), identity({'lr': 1, 'load_from': 'y'}))
    assert difference(identity({'lr': True}), identity({'lr': 1}))

    def hooks(**checkpoint):
        data = [{'how_to_get': str(checkpoint)}]
        return identity({'default_hooks': {'checkpoint': checkpoint}, 'data': data})

    one = hooks(type='CheckpointHook', interval=1, save_best='ap')
    assert difference(one, hooks(type='SafeCheckpointHook', save_best='ap')) is None
    assert difference(one, hooks(type='AnotherHook', save_best='ap'))
    assert 'save_best' in str(difference(hooks(save_best='ap'), hooks(save_best='ap50')))
    assert 'save_best' in str(difference(hooks(save_best='ap'), hooks()))


def test_moved_data_are_compared_by_their_content():
    def of(**dataset):
        return identity({'train_dataloader': {'dataset': {'type': 'A', **dataset}, 'num_workers': 2}})

    one, other = of(data_root='a', ann_file='x'), of(data_root='b', ann_file='x')
    assert difference(one, other) is None
    assert has_other_locations(one, other)
    assert not has_other_locations(one, one)
    assert difference(one, of(data_root='a', ann_file='x', test_mode=True))
