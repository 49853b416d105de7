"""record.json: writing, reading, keys; the protocol and the environment in it."""

import copy
import errno
import functools
import json
import os
import resource
import shutil
import subprocess
import types
from pathlib import Path
from typing import Any

import jsonschema
import mmdet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mmengine.config import Config

import backbones  # noqa: F401  first: it provides mmcv's operators
from compactdet.config import strict
from compactdet.errors import UserError
from compactdet.evaluation import evaluate
from compactdet.records import environment, protocol, record_file

from record_examples import SPLIT, example_record, put

# Writing and reading


def test_round_trip_keeps_every_float(tmp_path: Path) -> None:
    written = record_file.write(tmp_path / 'record.json', example_record())
    assert record_file.read(tmp_path / 'record.json') == written
    assert written['metrics']['test']['voc07_ap50'] == 0.6951234567890123
    assert [file.name for file in tmp_path.iterdir()] == ['record.json']


def test_the_schema_is_valid_and_has_no_open_objects() -> None:
    schema = json.loads(record_file.SCHEMA_FILE.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    text = json.dumps(schema)
    # Only the protocol may have any keys; versions and metrics state the type of their values.
    assert text.count('"properties": {') == text.count('"additionalProperties": false') > 10


@pytest.mark.parametrize(
    'file', [*(Path(__file__).parents[2] / 'work_dirs_template').rglob('record.json')], ids=str
)
def test_every_committed_record_is_valid(file: Path) -> None:
    assert record_file.read_any(file)['keys']


@pytest.mark.parametrize(
    ('place', 'value', 'message'),
    [
        ('trainning', {}, r'\$: unknown key "trainning"; did you mean "training"\?'),
        ('metrics.test.voc07_ap50', float('nan'), r'\$\.metrics\.test\.voc07_ap50 is NaN, infinite'),
        ('costs.at_224.total_macs', float('inf'), r'\$\.costs\.at_224\.total_macs is NaN'),
        ('seed', 1.5, r'\$\.seed: 1\.5 does not match "type"'),
        ('seed', True, r'\$\.seed: true does not match "type"'),
        ('created_utc', 'yesterday', r'\$\.created_utc: "yesterday" does not match "pattern"'),
        ('init.sha256', 'A' * 64, r'\$\.init\.sha256: "A+\.\.\. does not match "pattern"'),
        ('dataset.splits', {'training': SPLIT}, r'\$\.dataset\.splits: unknown key "training"'),
        ('metrics.test', [], r'\$\.metrics\.test'),
        ('git', Path('x'), r'not representable in JSON'),
    ],
)
def test_an_invalid_record_is_not_written(tmp_path: Path, place: str, value: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        record_file.write(tmp_path / 'record.json', put(example_record(), place, value))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('name', [n for n in example_record() if n != 'config'])
def test_every_field_is_required(tmp_path: Path, name: str) -> None:
    record = example_record()
    del record[name]
    with pytest.raises(UserError, match=rf'record: \$: missing key "{name}"'):
        record_file.finish(record)


def test_a_record_is_written_once(tmp_path: Path) -> None:
    path = tmp_path / 'record.json'
    record_file.write(path, example_record())
    record_file.write(path, example_record())  # the same content: no error
    before = path.read_bytes()
    with pytest.raises(UserError, match=r'never overwritten.*another --work-dir'):
        record_file.write(path, put(example_record(), 'metrics.test.voc07_ap50', 0.9))
    assert path.read_bytes() == before


@pytest.mark.parametrize('place', ['write', 'fsync', 'replace'])
def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    def full(*_args: Any, **_kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    target = {'write': (Path, 'open'), 'fsync': (os, 'fsync'), 'replace': (Path, 'replace')}
    with monkeypatch.context() as patch:
        patch.setattr(*target[place], full)
        with pytest.raises(UserError, match=r"cannot write '.*record\.json' \(No space"):
            record_file.write(tmp_path / 'record.json', example_record())
    assert not list(tmp_path.iterdir())


def test_a_missing_folder_and_a_missing_file(tmp_path: Path) -> None:
    (tmp_path / 'run').write_text('')
    with pytest.raises(UserError, match=r'cannot write .*\(Not a directory\)'):
        record_file.write(tmp_path / 'run' / 'record.json', example_record())
    with pytest.raises(UserError, match=r'record\.json: the record cannot be read: No such file'):
        record_file.read(tmp_path / 'record.json')


@pytest.mark.parametrize(
    ('place', 'value', 'message'),
    [
        ('seed', 1, r'record\.json: \$\.keys\.run is \w+ but the content gives \w+: .*edited'),
        ('protocol.init', 'none', r'\$\.keys\.protocol is \w+ but'),
        ('config.text', 'seed = 1\n', r'\$\.config\.sha256 is \w+ but'),
        ('keys.run', 'x', r'\$\.keys\.run: "x" does not match "pattern"'),
        ('metrics.test.voc07_ap50', float('nan'), r'record\.json: \$\.metrics\.test\.voc07_ap50 is NaN'),
        ('extra', 1, r'record\.json: \$: unknown key "extra"'),
    ],
)
def test_an_edited_file(tmp_path: Path, place: str, value: Any, message: str) -> None:
    path = tmp_path / 'record.json'
    record_file.write(path, example_record())
    path.write_text(json.dumps(put(json.loads(path.read_text()), place, value)))
    with pytest.raises(UserError, match=message):
        record_file.read(path)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'{"seed": 1,', 'not a JSON file: Expecting'),
        (b'\xff\xfe', 'not a JSON file'),
        (b'[' * 100_000, 'not a JSON file'),
        (b'{"seed": 1, "seed": 2}', 'the key "seed" occurs twice'),
        (b'{"seed": 1e999}', r'\$\.seed is NaN, infinite'),
        (b'{"seed": 1' + b'0' * 400 + b'}', r'\$\.seed is NaN, infinite, above 1e\+300'),
        (b'{"speed": 5e-324}', r'\$\.speed is NaN, infinite, above 1e\+300 or below its inverse'),
    ],
)
def test_a_file_that_is_not_a_record(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / 'record.json'
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        record_file.read(path)


# Keys


def test_keys_by_hand() -> None:
    # printf '%s' TEXT | sha256sum | cut -c1-12, with the texts of canonical_json
    keys = {'protocol': '0af45d412ccb', 'run': 'd89e7c07e91e'}
    assert record_file.finish(example_record())['keys'] == keys


@pytest.mark.parametrize(
    ('place', 'value', 'changed'),
    [
        ('metrics.test.voc07_ap50', 0.1, set()),
        ('training.wall_s', 1.0, set()),
        ('seed', 1, {'run'}),
        ('arch', 'menet_228_12x1_g3', {'run'}),
        ('init.sha256', 'b' * 64, {'run'}),
        ('config.text', 'seed = 1\n', {'run'}),
        ('protocol.init', 'none', {'run', 'protocol'}),
    ],
)
def test_content_that_changes_a_key(place: str, value: Any, changed: set[str]) -> None:
    one = record_file.finish(example_record())['keys']
    other = record_file.finish(put(example_record(), place, value))['keys']
    assert {name for name in one if one[name] != other[name]} == changed


text = st.text(max_size=5)
number = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | number | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(text, json_values, max_size=4), st.randoms(use_true_random=False))
def test_a_key_does_not_depend_on_the_order_of_a_dict(value: dict[str, Any], random: Any) -> None:
    def shuffled(part: Any) -> Any:
        if isinstance(part, dict):
            items = [(key, shuffled(item)) for key, item in part.items()]
            random.shuffle(items)
            return dict(items)
        return [shuffled(item) for item in part] if isinstance(part, list) else part

    assert record_file.content_key(shuffled(value)) == record_file.content_key(value)


@given(json_values)
def test_canonical_json_is_unchanged_by_writing_and_reading(value: Any) -> None:
    canonical = record_file.canonical_json(value)
    assert record_file.canonical_json(json.loads(canonical)) == canonical
    assert json.loads(canonical) == value


# Protocol

DET_CONFIGS = Path(__file__).parents[2] / 'det_configs'
load = functools.cache(strict.load)


def c4_config(family: str = 'menet') -> Config:
    return copy.deepcopy(load(DET_CONFIGS / f'{family}_frcnn_voc.py'))


def key_of(cfg: Config, *, init: str = 'ImageNet', sha: str = '0' * 64, world_size: int = 1) -> str:
    splits = {'train': {**SPLIT, 'annotations_sha256': sha}}
    content = protocol.protocol_of(cfg, splits, init, world_size)
    assert json.loads(json.dumps(content)) == content  # unchanged by writing and reading
    return record_file.content_key(content)


def changed(options: dict[str, Any]) -> Config:
    cfg = c4_config()
    cfg.merge_from_dict(options)
    return cfg


@pytest.mark.parametrize('family', ['shufflenet', 'mobilenet', 'menet_550m'])
def test_networks_have_one_protocol(family: str) -> None:
    other = c4_config(family)
    assert other.model.rpn_head.in_channels != c4_config().model.rpn_head.in_channels
    assert key_of(other) == key_of(c4_config())


DATA = 'train_dataloader.dataset'
IN_PROTOCOL = {
    'optim_wrapper.optimizer.lr': 0.01, 'optim_wrapper.type': 'AmpOptimWrapper',
    'optim_wrapper.clip_grad': dict(max_norm=1), 'param_scheduler.0.milestones': [9],
    'train_cfg.max_epochs': 12, f'{DATA}.pipeline.2.scale': (500, 300),
    f'{DATA}.known_defects': ['BloodImage_00338'], f'{DATA}.type': 'AnotherDataset',
    'test_dataloader.dataset.pipeline.1.scale': (500, 300), 'train_dataloader.batch_size': 4,
    'model.test_cfg.rcnn.nms.iou_threshold': 0.5, 'model.train_cfg.rcnn.sampler.num': 512,
    'model.backbone.bn_policy': 'train', 'model.backbone.frozen_stages': 2,
    'model.backbone.frozen_stride': 8,
    'model.roi_head.shared_head.bn_policy': 'train', 'model.roi_head.shared_head.stride': 2,
    'model.rpn_head.feat_channels': 256, 'model.rpn_head.anchor_generator.scales': [2, 4, 8],
    'model.roi_head.bbox_roi_extractor.roi_layer.output_size': 14,
    'model.data_preprocessor.pad_size_divisor': 1, 'model.neck': dict(type='FPN', out_channels=256),
    'test_evaluator.metric': 'another', 'default_hooks.checkpoint.save_best': 'voc/ap50_11point',
    'custom_hooks': [dict(type='EMAHook')], 'auto_scale_lr.enable': False, 'train_cfg.val_interval': 1,
    'auto_scale_lr.base_batch_size': 16, 'model.data_preprocessor.mean': [0.0, 0.0, 0.0],
    'model.data_preprocessor.std': [1.0, 1.0, 1.0], 'model.data_preprocessor.bgr_to_rgb': False,
}  # fmt: skip
NOT_IN_PROTOCOL = {
    f'{DATA}.data_root': '/elsewhere', f'{DATA}.ann_file': 'b.txt', f'{DATA}.how_to_get': 'ask',
    f'{DATA}.pipeline.0.backend_args': 'local', 'test_dataloader.dataset.data_root': '/elsewhere',
    'train_dataloader.num_workers': 0, 'train_dataloader.persistent_workers': False, 'randomness.seed': 7,
    'work_dir': '/elsewhere', 'default_hooks.logger.interval': 1, 'default_hooks.checkpoint.interval': 5,
    'custom_hooks': [],
    'model.backbone.init_cfg.checkpoint': 'other.safetensors',
    'model.backbone.conventions': dict(bn_eps=0.001),
    'optim_wrapper.optimizer.fused': True, 'param_scheduler.0.milestones': (20.0,),
    'test_evaluator.prefix': 'other', 'test_evaluator.out': 'predictions.json',
}  # fmt: skip


@pytest.mark.parametrize('option', IN_PROTOCOL)
def test_settings_that_change_the_protocol(option: str) -> None:
    assert key_of(changed({option: IN_PROTOCOL[option]})) != key_of(c4_config())


@pytest.mark.parametrize('option', NOT_IN_PROTOCOL)
def test_settings_that_do_not_change_the_protocol(option: str) -> None:
    assert key_of(changed({option: NOT_IN_PROTOCOL[option]})) == key_of(c4_config())


def test_other_parts_of_the_protocol() -> None:
    key = key_of(c4_config())
    assert key_of(c4_config(), init='none') != key
    assert key_of(c4_config(), sha='1' * 64) != key
    assert key_of(c4_config(), world_size=2) == key_of(changed({'train_dataloader.batch_size': 4}))


def test_protocol_by_hand() -> None:
    content = protocol.protocol_of(c4_config(), {'test': SPLIT}, 'ImageNet')
    assert content['model']['backbone'] == {
        'bn_policy': 'frozen',
        'frozen_stages': -1,
        'frozen_stride': 4,
    }
    assert content['model']['roi_head']['shared_head'] == {'bn_policy': 'frozen'}
    assert content['model']['data_preprocessor'] == {'type': 'DetDataPreprocessor', 'pad_size_divisor': 32}
    assert content['annotations'] == {'test': '0' * 64}
    assert (content['selection'], content['preprocessing']) == ('last', 'that of the weights')
    assert content['hooks'] == [{'type': 'ParamSchedulerHook'}, {'type': 'DistSamplerSeedHook'}]
    assert content['batch_size'] == 2
    assert not [t for t in ('704', '1408', 'menet', 'data/', 'num_workers') if t in json.dumps(content)]


def test_evaluator_version(monkeypatch: pytest.MonkeyPatch) -> None:
    load(DET_CONFIGS / 'menet_frcnn_voc.py')  # registers the metric of the suite
    assert protocol.evaluator_version('VOCMetric') == f'mmdet {mmdet.__version__}'
    assert protocol.evaluator_version('DetectionMetric') == f'bench {evaluate.VERSION}'
    before = key_of(c4_config())
    monkeypatch.setattr(evaluate, 'VERSION', evaluate.VERSION + 1)
    assert key_of(c4_config()) != before
    with pytest.raises(UserError, match="test_evaluator: no metric 'VOCMetrik' is registered"):
        protocol.evaluator_version('VOCMetrik')


# Environment


def test_the_environment_matches_the_schema() -> None:
    record = example_record()
    record |= dict(versions=environment.versions(), hardware=environment.hardware())
    record['git'] = environment.git_state(Path(__file__).parents[2])
    assert record_file.finish(record)['versions']['mmdet']


def test_peak_memory_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    kilobytes = {resource.RUSAGE_SELF: 100, resource.RUSAGE_CHILDREN: 50}
    monkeypatch.setattr(resource, 'getrusage', lambda who: types.SimpleNamespace(ru_maxrss=kilobytes[who]))
    monkeypatch.setattr(environment.torch.cuda, 'is_available', lambda: False)
    for platform, expected in {'linux': 150 * 1024, 'darwin': 150}.items():
        monkeypatch.setattr(environment.sys, 'platform', platform)
        assert environment.peak_memory_bytes() == expected
    monkeypatch.setattr(environment.torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(environment.torch.cuda, 'max_memory_allocated', lambda: 7)
    assert environment.peak_memory_bytes() == 7


@pytest.mark.skipif(shutil.which('git') is None, reason='needs git')
def test_git_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> None:
        who = ('-c', 'user.name=a', '-c', 'user.email=a@b', '-c', 'commit.gpgsign=false')
        subprocess.run(['git', *who, *arguments], cwd=tmp_path, check=True, capture_output=True)

    assert environment.git_state(tmp_path) is None  # not a checkout
    git('init')
    assert environment.git_state(tmp_path) is None  # no commit
    (tmp_path / 'inner').mkdir()
    (tmp_path / 'inner' / 'a').write_text('1')
    git('add', '.')
    git('commit', '-m', 'one')
    state = environment.git_state(tmp_path)
    assert state is not None
    assert (len(state['commit']), state['dirty']) == (40, False)
    assert environment.git_state(tmp_path / 'inner') is None  # not the top folder of the checkout
    (tmp_path / 'inner' / 'a').write_text('2')
    assert environment.git_state(tmp_path) == {**state, 'dirty': True}
    monkeypatch.setenv('PATH', '')
    assert environment.git_state(tmp_path) is None  # git is not found


def test_an_ap_in_percent_is_an_error_for_all_tools(tmp_path, run_tool):
    record = record_file.finish(example_record())
    record['metrics']['test']['voc/ap50_11point'] = 74.3
    path = tmp_path / 'record.json'
    path.write_text(json.dumps(record))
    for tool in ('table', 'transfer', 'leaderboard'):
        out = [] if tool == 'table' else ['--out', tmp_path / 'out']
        status, _, err = run_tool(tool, path, *out)
        assert (status, err.count('\n')) == (1, 1)
        assert "$.metrics.test['voc/ap50_11point'] is 74.3; must be a share from 0 to 1" in err
