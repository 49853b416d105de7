"""A composed config equals the leaf config of the same base configs."""

from pathlib import Path
from typing import Any

import pytest

from backbones import get_arch
from backbones.spec import Arch, Stage
from backbones.wiring import TAPS, check_able, detectors
from compactdet.config import compose, strict
from compactdet.config.choice import DATASET_NAMES, DetectorChoice
from compactdet.config.compose import compose_config
from compactdet.config.options import TrainOptions, config_from_options
from compactdet.errors import UserError
from compactdet.records import record_file
from compactdet.records.protocol import protocol_of
from compactdet.records.protocol_diff import find_differences
from compactdet.sweep.grid import jobs, read

CONFIGS = Path(__file__).parents[2] / 'det_configs'
TEMPLATE = Path(__file__).parents[2] / 'work_dirs_template'
LEAF_CONFIGS = sorted(CONFIGS.glob('*.py'))
ARCH = 'menet_108_8x1_g3'

pytestmark = pytest.mark.usefixtures('plain_config_text')


# Leaf configs


def choice_of(leaf: Path) -> DetectorChoice:
    """Return the network, detector and data set of a leaf config."""
    cfg, text = strict.load(leaf), leaf.read_text()
    (detector,) = [name for name in TAPS if f'model = {name}(' in text]
    (data,) = [name for name in DATASET_NAMES if f'_base_/datasets/{name}.py' in text]
    return DetectorChoice(cfg.model.backbone.arch, detector, data)


@pytest.mark.parametrize('leaf', LEAF_CONFIGS, ids=lambda path: path.stem)
def test_a_leaf_config_equals_the_composed_config(leaf: Path) -> None:
    assert strict.resolved_text(strict.load(leaf)) == strict.resolved_text(compose_config(choice_of(leaf)))


def test_the_grids_of_papers_have_the_runs_of_their_leaf_configs() -> None:
    runs = []
    for name in ('menet_voc', 'shufflenet_coco', 'condensenetv2_coco'):
        path = CONFIGS / f'sweeps/{name}.yaml'
        runs += [
            DetectorChoice(run.arch, run.detector, run.dataset)
            for run in jobs(read(path), name)
            if not run.seed
        ]
    assert len(runs) == len(set(runs))
    assert set(runs) == {
        choice_of(leaf) for leaf in LEAF_CONFIGS if '_voc' in leaf.stem or '_coco' in leaf.stem
    }


# arXiv:1707.01083, Table 7: network, shorter side, mAP in percent.
SHUFFLENET = {
    'shufflenet_2x_frcnn_coco_300': ('shufflenet_2x_g3', 300, 18.7),
    'shufflenet_2x_frcnn_coco_600': ('shufflenet_2x_g3', 600, 25.0),
    'shufflenet_1x_frcnn_coco_300': ('shufflenet_1x_g3', 300, 14.5),
    'shufflenet_1x_frcnn_coco_600': ('shufflenet_1x_g3', 600, 19.8),
    'mobilenet_1x_frcnn_coco_300': ('mobilenet_1x', 300, 14.9),
    'mobilenet_1x_frcnn_coco_600': ('mobilenet_1x', 600, 19.3),
}
# arXiv:2104.04382, Table 7 (with the corrected name in its third row): network, detector, mAP in percent.
CONDENSENETV2 = {
    'shufflenetv2_41m_frcnn_fpn_coco': ('shufflenetv2_0.5x', 'FasterRCNN', 22.1),
    'condensenetv2_a_frcnn_fpn_coco': ('condensenetv2_a', 'FasterRCNN', 23.5),
    'shufflenetv2_146m_frcnn_fpn_coco': ('shufflenetv2_1x', 'FasterRCNN', 27.4),
    'condensenetv2_b_frcnn_fpn_coco': ('condensenetv2_b', 'FasterRCNN', 27.9),
    'mobilenetv2_300m_frcnn_fpn_coco': ('mobilenetv2_1x', 'FasterRCNN', 30.6),
    'shufflenetv2_299m_frcnn_fpn_coco': ('shufflenetv2_1.5x', 'FasterRCNN', 30.2),
    'sfr_shufflenetv2_306m_frcnn_fpn_coco': ('sfr_shufflenetv2_1.5x', 'FasterRCNN', 30.7),
    'condensenetv2_c_frcnn_fpn_coco': ('condensenetv2_c', 'FasterRCNN', 31.4),
    'mobilenetv2_300m_retinanet_coco': ('mobilenetv2_1x', 'RetinaNet', 29.7),
    'shufflenetv2_299m_retinanet_coco': ('shufflenetv2_1.5x', 'RetinaNet', 29.1),
    'condensenetv2_c_retinanet_coco': ('condensenetv2_c', 'RetinaNet', 31.7),
}


def test_every_coco_config_is_in_the_table_of_a_paper() -> None:
    assert {leaf.stem for leaf in LEAF_CONFIGS if '_coco' in leaf.stem} == {*SHUFFLENET, *CONDENSENETV2}


def scales(cfg: Any) -> set[tuple[int, int]]:
    pipelines = (cfg[f'{name}_dataloader'].dataset.pipeline for name in ('train', 'test'))
    return {step.scale for pipeline in pipelines for step in pipeline if step.type == 'Resize'}


@pytest.mark.parametrize('name', SHUFFLENET)
def test_a_row_of_the_shufflenet_table(name: str) -> None:
    arch, size, ap = SHUFFLENET[name]
    cfg = strict.load(CONFIGS / f'{name}.py')
    assert (cfg.model.backbone.arch, cfg.model.roi_head.shared_head.arch) == (arch, arch)
    assert scales(cfg) == {(round(size * 5 / 3), size)}
    assert cfg.model.rpn_head.anchor_generator.scales == [4, 8, 16, 32]
    assert (cfg.train_cfg.max_epochs, cfg.param_scheduler[0].milestones) == (8, [6])
    assert f'Paper: mAP {ap} %' in (CONFIGS / f'{name}.py').read_text()


@pytest.mark.parametrize('name', CONDENSENETV2)
def test_a_row_of_the_condensenetv2_table(name: str) -> None:
    arch, detector, ap = CONDENSENETV2[name]
    cfg = strict.load(CONFIGS / f'{name}.py')
    assert (cfg.model.backbone.arch, cfg.model.type) == (arch, detector)
    assert scales(cfg) == {(1333, 800)}
    assert (cfg.train_cfg.max_epochs, cfg.param_scheduler[1].milestones) == (12, [8, 11])
    assert cfg.optim_wrapper.optimizer.lr == {'FasterRCNN': 0.02, 'RetinaNet': 0.01}[detector]
    assert cfg.model.get('roi_head', cfg.model).bbox_head.num_classes == 80
    assert f'Paper: mAP {ap} %' in (CONFIGS / f'{name}.py').read_text()


@pytest.mark.parametrize('size', [300, 600])
def test_coco_of_another_size_differs_in_the_size_only(size: int) -> None:
    def load(name: str) -> dict[str, Any]:
        return strict.read(compose.BASE_CONFIGS / 'datasets' / f'{name}.py').to_dict()

    def walk(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: walk(item) for key, item in value.items() if key != 'scale'}
        return [walk(item) for item in value] if isinstance(value, list) else value

    assert load(f'coco_{size}') != load('coco')
    assert walk(load(f'coco_{size}')) == walk(load('coco'))


@pytest.mark.parametrize('name', ['bccd_imagenet_seed0', 'shapes_seed0'])
def test_a_leaf_config_has_the_protocol_of_its_published_record(name: str) -> None:
    record = record_file.read(TEMPLATE / name / 'record.json')
    cfg = config_from_options(TrainOptions(str(CONFIGS / record['config']['file']), seed=0))
    made = protocol_of(cfg, record['dataset']['splits'], record['init']['class'])
    assert find_differences(made, record['protocol']) == []


# Choices


@pytest.mark.parametrize('dataset', [name for name in DATASET_NAMES if name != 'custom'])
@pytest.mark.parametrize('detector', TAPS)
def test_every_combination_composes(detector: str, dataset: str) -> None:
    cfg = compose_config(DetectorChoice('shufflenetv2_1x', detector, dataset))
    classes = compose.dataset_classes(cfg)
    assert cfg.model.get('roi_head', cfg.model).bbox_head.num_classes == len(classes)
    assert (cfg.val_cfg is None) == (cfg.val_dataloader is None) == (cfg.val_evaluator is None)
    assert cfg.default_hooks.checkpoint.get('save_best') == (
        'voc/ap50_11point' if dataset == 'bccd' else None
    )


def test_a_special_base_config_replaces_the_general_one() -> None:
    def names(*choice: str) -> list[str]:
        return [path.stem for path in compose.base_config_files(DetectorChoice(ARCH, *choice))]

    assert names('frcnn_c4', 'voc07') == ['frcnn_c4', 'voc07', 'voc07', 'runtime']
    assert names('frcnn_c4', 'bccd') == ['frcnn_c4_bccd', 'bccd', 'bccd', 'runtime']
    assert names('frcnn_c4', 'coco_300') == ['frcnn_c4_coco', 'coco_300', 'coco_c4', 'runtime']
    assert names('retinanet_fpn', 'coco') == [
        'retinanet_fpn_coco',
        'coco',
        '1x_retinanet_fpn',
        'runtime',
    ]
    assert names('retinanet_fpn', 'voc07', '1x') == [
        'retinanet_fpn',
        'voc07',
        '1x_retinanet_fpn',
        'runtime',
    ]
    assert names('frcnn_fpn', 'coco', '2x') == ['frcnn_fpn', 'coco', '2x', 'runtime']


def test_schedules() -> None:
    one, two = (compose_config(DetectorChoice(ARCH, 'frcnn_fpn', 'voc07', name)) for name in ('1x', '2x'))
    assert (one.train_cfg.max_epochs, two.train_cfg.max_epochs) == (12, 24)
    assert two.param_scheduler[1].milestones == [16, 22]
    assert one.optim_wrapper == two.optim_wrapper
    assert one.auto_scale_lr == dict(enable=True, base_batch_size=16)


@pytest.mark.parametrize(
    ('choice', 'message'),
    [
        (
            DetectorChoice('ghostnet_1y', 'frcnn_c4', 'voc07'),
            r"unknown arch 'ghostnet_1y'; near: ghostnet_1x",
        ),
        (DetectorChoice(ARCH, 'frcnn_c5', 'voc07'), r"no detector 'frcnn_c5'; did you mean frcnn_c4"),
        (DetectorChoice(ARCH, 'frcnn_c4', 'voc12'), r"no data set 'voc12'; did you mean voc07"),
        (DetectorChoice(ARCH, 'frcnn_c4', 'voc07', '3x'), r"no schedule '3x'; known: 1x, 2x, bccd"),
        (DetectorChoice(ARCH, 'frcnn_c4', 'voc07', '1x_retinanet_fpn'), r"no schedule '1x_retinanet_fpn'"),
    ],
)
def test_an_unknown_choice(choice: DetectorChoice, message: str) -> None:
    with pytest.raises((UserError, KeyError), match=message):
        compose_config(choice)


def test_a_custom_data_set_has_its_own_classes(tiny_set: Path) -> None:
    choice = DetectorChoice(ARCH, 'frcnn_fpn', 'custom', data_root=str(tiny_set))
    cfg = compose_config(choice)
    classes = cfg.train_dataloader.dataset.metainfo['classes']
    assert cfg.model.roi_head.bbox_head.num_classes == len(classes) > 1
    assert cfg.val_dataloader.dataset.ann_file.endswith('val.txt')
    assert cfg.default_hooks.checkpoint.save_best == 'voc/ap50_11point'
    assert choice.name == f'{ARCH}_frcnn_fpn_tiny'


def test_cfg_options_that_belong_to_the_choice() -> None:
    cfg = compose_config(DetectorChoice(ARCH, 'frcnn_c4', 'voc07'))
    with pytest.raises(
        UserError, match='were derived from it; choose them with --arch, --detector and --data'
    ):
        strict.merge_options(cfg, {'model.backbone.arch': 'menet_228_12x1_g3'})


# Detectors that a network cannot be used in


def row(*stages: Stage, **kwargs: Any) -> Arch:
    return Arch(paper='', name='net', stem_channels=8, stem_stride=2, stages=stages, **kwargs)


UP_TO_16 = row(Stage(4, 16), Stage(8, 32), Stage(16, 64))


@pytest.mark.parametrize(
    ('arch', 'names'),
    [
        (get_arch(ARCH), (*TAPS,)),
        (row(Stage(8, 32), Stage(16, 64), Stage(32, 64)), ('frcnn_c4', 'retinanet_fpn')),
        (row(Stage(16, 64), Stage(32, 64)), ('frcnn_c4',)),
        (row(Stage(4, 16), Stage(8, 16)), ()),
        (UP_TO_16, ()),
        (row(Stage(8, 32), Stage(16, 64), Stage(32, 64), split_strides=(8, 32)), ('retinanet_fpn',)),
    ],
)
def test_detectors_of_a_network(arch: Arch, names: tuple[str, ...]) -> None:
    assert detectors(arch) == names


@pytest.mark.parametrize(
    ('arch', 'detector', 'message'),
    [
        (
            UP_TO_16,
            'retinanet_fpn',
            r'^net has no map at stride 32, which retinanet_fpn needs; it has \[2, 4, 8, 16\]; it can do: '
            r'classification only$',
        ),
        (UP_TO_16, 'frcnn_c4', r'^net has no stage after stride 16, which frcnn_c4 needs; '),
        (
            get_arch('nasnet_a_mobile'),
            'frcnn_c4',
            'no stage after stride 16 that takes the map there and nothing else, .* frcnn_fpn, retina',
        ),
        (
            row(Stage(16, 64), Stage(32, 64)),
            'frcnn_fpn',
            r'^net has no map at stride 4 or 8, which frcnn_fpn needs; .*; it can do: frcnn_c4$',
        ),
    ],
)
def test_the_reason_that_a_network_cannot_be_used(arch: Arch, detector: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_able(arch, detector)


# Commands


def test_a_network_without_the_feature_maps_is_an_error_before_any_file_is_written(
    run_tool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    choice = ['--arch', 'condensenet_86_cifar', '--detector', 'frcnn_fpn', '--dataset', 'voc07']
    status, out, err = run_tool('train', *choice)
    assert (status, out) == (1, '')
    assert err.startswith('error: condensenet_86_cifar has no map at stride 8 or 16 or 32, which frcnn_fpn')
    assert [*tmp_path.iterdir()] == []


USAGE = [
    ([], 'give a config file, or --arch, --detector and --dataset'),
    (['--arch', ARCH, '--dataset', 'voc07'], '--detector is missing'),
    (['a.py', '--arch', ARCH], r'a.py) or --arch, --detector and --dataset, not both'),
    (
        ['--arch', ARCH, '--detector', 'frcnn_c4', '--dataset', 'custom'],
        '--dataset custom needs --data-root',
    ),
    (['a.py', '--lr', '0'], '0 is not positive'),
    (['a.py', '--lr', '1', '--lr-choice', 'val:2,3'], 'is not one of these rates; give the chosen one'),
    (['a.py', '--lr', '1', '--lr-choice', 'best'], 'is not SPLIT:LR,LR,...'),
]


@pytest.mark.parametrize(('arguments', 'message'), USAGE)
def test_bad_usage(run_tool: Any, arguments: list[str], message: str) -> None:
    status, out, err = run_tool('train', *arguments)
    assert (status, out) == (2, '')
    assert message in err


def test_print_config_writes_no_file(
    run_tool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    choice = [
        '--arch',
        'ghostnet_1x',
        '--detector',
        'retinanet_fpn',
        '--dataset',
        'voc07',
        '--schedule',
        '1x',
    ]
    status, out, err = run_tool('train', *choice, '--lr', '0.004', '--seed', '7', '--print-config')
    assert status == 0
    _, _, summary = err.partition('protocol (the key depends on data and weights)')
    namespace: dict[str, Any] = {}
    exec(out, namespace)
    assert namespace['model']['backbone']['arch'] == 'ghostnet_1x'
    assert namespace['optim_wrapper']['optimizer']['lr'] == 0.004
    assert namespace['randomness'] == {'seed': 7}
    words = ' '.join(summary.split())
    assert '12 epochs, warm-up of 500 steps' in words
    assert '0.004, the same for every network; times 0.125' in words
    assert [*tmp_path.iterdir()] == []


def test_a_composed_run_from_end_to_end(
    run_tool: Any, tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    choice = ['--arch', ARCH, '--detector', 'frcnn_c4', '--dataset', 'custom', '--data-root', tiny_set]
    options = ['train_cfg.max_epochs=1', 'model.rpn_head.anchor_generator.scales=[1,2]']
    options += ['model.train_cfg.rpn_proposal.max_per_img=20', 'model.test_cfg.rpn.max_per_img=10']
    for name, resize in (('train', 2), ('val', 1), ('test', 1)):
        loader = f'{name}_dataloader'
        options += [f'{loader}.num_workers=0', f'{loader}.persistent_workers=False']
        options += [f'{loader}.dataset.pipeline.{resize}.scale=(64,64)']
    status, out, err = run_tool(
        'train', *choice, '--init', 'none', '--lr', '0.016', '--cfg-options', *options
    )
    assert (status, err) == (0, '')
    name = f'{ARCH}_frcnn_c4_tiny'
    run = tmp_path / 'work_dirs' / name
    record = record_file.read(run / 'record.json')
    assert record['config']['file'] == f'{name}.py'
    assert (run / f'{name}.py').is_file()
    assert f'protocol {record["keys"]["protocol"]}' in out  # before the training
    assert record['protocol']['optimiser']['optimizer']['lr'] == 0.016
    assert f'--arch {ARCH}' in record['command']
    assert '0.016, the same for every network; times 0.125 for the batch' in ' '.join(out.split())
    log = ''.join(file.read_text() for file in run.rglob('*.log'))
    assert 'Scaling the original LR by 0.125' in log
    checkpoint = run / record['training']['chosen']['checkpoint']
    status, out, err = run_tool('test', *choice, checkpoint, '--init', 'none', '--cfg-options', *options)
    assert (status, err) == (0, '')
    assert 'testing on 3 images' in out
