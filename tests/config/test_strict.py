"""Strict reading of configs: a missing file, an error in it or a misspelled key gives one line."""

from pathlib import Path
from typing import Any

import mmdet
import pytest
from mmengine.config import Config

import backbones  # noqa: F401  first: it provides mmcv's operators
from compactdet.config import strict
from compactdet.errors import UserError

MMDET_CONFIGS = Path(mmdet.__file__).parent / '.mim' / 'configs'
LEAF = """
_base_ = ['detector.py', 'schedule.py']
model = dict(
    backbone=dict(type='MENet', arch='menet_352_12x1_g8', out_strides=(16,), bn_policy='frozen'),
    rpn_head=dict(in_channels=704, feat_channels=512),
    roi_head=dict(
        shared_head=dict(type='StageHead', arch='menet_352_12x1_g8', in_stride=16),
        bbox_roi_extractor=dict(out_channels=704),
        bbox_head=dict(in_channels=1408, num_classes=20),
    ),
)
"""
SCHEDULE = """
train_pipeline = [dict(type='Resize', scale=(1000, 600), keep_ratio=True)]
data_root = 'data'
train_dataloader = dict(
    batch_size=2,
    num_workers=2,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='XMLDataset',
        data_root=data_root,
        data_prefix=dict(sub_data_root='VOC2007/'),
        filter_cfg=dict(filter_empty_gt=True),
        pipeline=train_pipeline,
    ),
)
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=14)
optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.002, momentum=0.9), clip_grad=dict(max_norm=35, norm_type=2)
)
param_scheduler = [dict(type='MultiStepLR', by_epoch=True, milestones=[10], gamma=0.1)]
default_hooks = dict(checkpoint=dict(type='CheckpointHook', interval=1))
custom_hooks = [dict(type='CheckInvalidLossHook', priority='LOW')]
work_dir = None
"""
DETECTOR = """
model = dict(
    type='FasterRCNN',
    rpn_head=dict(type='RPNHead', loss_bbox=dict(type='SmoothL1Loss', beta=1.0)),
    roi_head=dict(
        type='StandardRoIHead',
        bbox_roi_extractor=dict(
            type='SingleRoIExtractor',
            roi_layer=dict(type='RoIAlign', output_size=7, sampling_ratio=2),
            featmap_strides=[16],
        ),
        bbox_head=dict(type='BBoxHead', roi_feat_size=7),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(type='RandomSampler', num=256, pos_fraction=0.5)),
        rcnn=dict(pos_weight=-1, debug=False),
    ),
    test_cfg=dict(
        rpn=dict(nms_pre=6000, max_per_img=300, nms=dict(type='nms', iou_threshold=0.7)),
        rcnn=dict(score_thr=0.05, nms=dict(type='nms', iou_threshold=0.3), max_per_img=100),
    ),
)
"""


@pytest.fixture
def leaf(tmp_path: Path) -> Path:
    (tmp_path / 'detector.py').write_text(DETECTOR)
    (tmp_path / 'schedule.py').write_text(SCHEDULE)
    (tmp_path / 'leaf.py').write_text(LEAF)
    return tmp_path / 'leaf.py'


def add(path: Path, text: str) -> Path:
    path.write_text(path.read_text() + text + '\n')
    return path


def test_a_valid_config_and_its_resolved_text(leaf: Path) -> None:
    cfg = strict.load(leaf)
    assert cfg.model.rpn_head.in_channels == 704
    dumped = leaf.with_name('dumped.py')
    dumped.write_text(strict.resolved_text(cfg))
    assert {**strict.load(dumped).to_dict(), 'work_dir': None} == cfg.to_dict()


def test_other_file_formats(tmp_path: Path) -> None:
    (tmp_path / 'a.yaml').write_text('randomness:\n  seed: 1\n')
    assert strict.load(tmp_path / 'a.yaml').randomness.seed == 1
    (tmp_path / 'a.txt').write_text('')
    with pytest.raises(UserError, match=r'a\.txt: OSError: Only py/yml'):
        strict.load(tmp_path / 'a.txt')


def test_a_repeated_run_has_the_same_text(leaf: Path) -> None:
    one, other = strict.load(leaf), strict.load(leaf)
    one.work_dir = 'a'
    other.merge_from_dict({'work_dir': 'b', 'resume': True, 'load_from': 'c.pth', 'launcher': 'pytorch'})
    assert strict.resolved_text(one) == strict.resolved_text(other)
    assert other.work_dir == 'b'
    one.load_from = 'c.pth'
    assert 'c.pth' in strict.resolved_text(one)


@pytest.mark.parametrize('name', ['faster-rcnn_r50-caffe-c4', 'faster-rcnn_r50_fpn', 'retinanet_r50_fpn'])
def test_configs_of_mmdetection_are_valid(name: str) -> None:
    base = MMDET_CONFIGS / '_base_'
    files = [f'models/{name}', 'datasets/voc0712', 'schedules/schedule_1x', 'default_runtime']
    if not base.is_dir():
        pytest.skip('this installation of mmdet has no configs')
    cfg = Config()
    for file in files:
        cfg.merge_from_dict(Config.fromfile(base / f'{file}.py').to_dict())
    strict.check_keys(cfg)


@pytest.mark.parametrize(
    'file', sorted((Path(__file__).parents[2] / 'det_configs').glob('*.py')), ids=lambda file: file.stem
)
def test_configs_of_the_suite_are_valid(file: Path) -> None:
    strict.load(file)


# Loading


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r'absent\.py: no such config file'):
        strict.load(tmp_path / 'absent.py')
    with pytest.raises(UserError, match='no such config file'):
        strict.load(tmp_path)
    with pytest.raises(UserError, match=r'did you mean .*menet_frcnn_shapes\.py'):
        strict.load('menet_frcnn_shape.py')
    (tmp_path / 'mine.py').touch()
    with pytest.raises(UserError, match=r'mine\.pi: no such config file; did you mean .*mine\.py\?'):
        strict.load(tmp_path / 'mine.pi')


@pytest.mark.parametrize('name', ['leaf', 'schedule'])
def test_a_syntax_error_names_file_and_line(leaf: Path, name: str) -> None:
    leaf.with_name(f'{name}.py').write_text("_base_ = ['detector.py']\nmodel = dict(\n")
    if name == 'schedule':
        leaf.write_text(LEAF)
    with pytest.raises(UserError, match=rf"{name}\.py, line 2: syntax error: '\(' was never closed"):
        strict.load(leaf)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('a = undefined', r"leaf\.py, line 12: NameError: name 'undefined' is not defined"),
        ('import absent_module', r"line 12: ModuleNotFoundError: No module named 'absent_module'; inst"),
        (
            "import backbones\nmodel['rpn_head'] = backbones.get_arch('menet_352_12x1_g9')",
            r"leaf\.py, line 13: unknown arch 'menet_352_12x1_g9'; near: .*menet_352_12x1_g8",
        ),
        ("custom_imports = dict(imports=['absent_module'])", r'leaf\.py: .*absent_module.*; install'),
        ('_base_.model.backbon.arch', r"leaf\.py, line 12: AttributeError: .*'backbon'"),
    ],
)
def test_a_config_that_fails(leaf: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        strict.load(add(leaf, text))
    assert '\n' not in str(caught.value)


def test_a_missing_base_config(leaf: Path) -> None:
    leaf.with_name('schedule.py').unlink()
    with pytest.raises(UserError, match=r'leaf\.py: FileNotFoundError: .*schedule\.py'):
        strict.load(leaf)


def test_an_import_above_the_base_config(leaf: Path) -> None:
    leaf.write_text('import backbones\n' + LEAF)
    with pytest.raises(UserError, match=r'leaf\.py: .*move imports below `_base_`'):
        strict.load(leaf)


# Misspelled keys in a file

MISSPELLED = [
    ('train_cgf = dict(max_epochs=1)', "the config has no key 'train_cgf'; did you mean train_cfg"),
    ('epochs = 12', "the config has no key 'epochs'; it would have no effect"),
    (
        'model = dict(test_cfg=dict(rcnn=dict(score_thrr=0.1)))',
        r"model\.test_cfg\.rcnn has no key 'score_thrr'; did you mean score_thr\?",
    ),
    ('model = dict(tset_cfg=dict())', r"model \(FasterRCNN\) has no key 'tset_cfg'; did you mean test_cfg"),
    ("model = dict(backbone=dict(bn_polcy='eval'))", r'model\.backbone \(MENet\) .* mean bn_policy\?'),
    ("model = dict(backbone=dict(type='MENett'))", r"backbone: no class 'MENett' .* mean MENet"),
    ('model = dict(rpn_head=dict(feat_chanels=1))', r'rpn_head \(RPNHead\) .* mean feat_channels'),
    (
        'model = dict(train_cfg=dict(rpn=dict(sampler=dict(neg_pos_upb=1))))',
        r"sampler \(RandomSampler\) has no key 'neg_pos_upb'; did you mean neg_pos_ub",
    ),
    ('model = dict(test_cfg=dict(rpn=dict(nms=dict(iou_thr=1))))', r'nms \(nms\) .* mean iou_threshold'),
    ("model = dict(test_cfg=dict(rpn=dict(nms=dict(type='nmss'))))", r"no class 'nmss' .* mean nms"),
    (
        'model = dict(roi_head=dict(bbox_roi_extractor=dict(roi_layer=dict(sample_ratio=2))))',
        r'roi_layer \(RoIAlign\) .* mean sampling_ratio',
    ),
    ('train_dataloader = dict(batchsize=4)', r"train_dataloader has no key 'batchsize'; .* batch_size"),
    ('train_dataloader = dict(dataset=dict(datar_oot=1))', r'dataset \(XMLDataset\) .* mean data_root'),
    ('train_dataloader = dict(dataset=dict(filter_cfg=dict(minsize=1)))', r'filter_cfg .* mean min_size'),
    ('optim_wrapper = dict(optimizer=dict(weigth_decay=1))', r'optimizer \(SGD\) .* mean weight_decay'),
    ('optim_wrapper = dict(clip_grad=dict(maxnorm=1))', r'optim_wrapper\.clip_grad .* mean max_norm'),
    (
        'optim_wrapper = dict(acumulative_counts=1)',
        r'optim_wrapper \(OptimWrapper\) .* accumulative_counts',
    ),
    (
        "param_scheduler = [dict(type='MultiStepLR', milestone=[1])]",
        r'param_scheduler\.0 .* mean milestones',
    ),
    ('default_hooks = dict(checkpont=dict())', r"default_hooks has no key 'checkpont'; .* checkpoint"),
    (
        'default_hooks = dict(checkpoint=dict(intervall=1))',
        r'checkpoint \(CheckpointHook\) .* mean interval',
    ),
    ('train_cfg = dict(max_epoch=1)', r'train_cfg \(EpochBasedTrainLoop\) .* mean max_epochs'),
    ('randomness = dict(sed=1)', r"randomness has no key 'sed'; did you mean seed"),
]


@pytest.mark.parametrize(('text', 'message'), MISSPELLED, ids=[text for text, _ in MISSPELLED])
def test_a_misspelled_key_in_a_file(leaf: Path, text: str, message: str) -> None:
    leaf.with_name('child.py').write_text(f"_base_ = 'leaf.py'\n{text}\n")
    with pytest.raises(UserError, match=rf'child\.py: .*{message}'):
        strict.load(leaf.with_name('child.py'))


def test_a_variable_that_the_base_configs_have_already_used(leaf: Path) -> None:
    child = leaf.with_name('child.py')
    child.write_text("_base_ = 'leaf.py'\ntrain_pipeline = []\n")
    with pytest.raises(
        UserError, match=r'child\.py, line 2: train_pipeline .* has no effect; set train_data'
    ):
        strict.load(child)
    add(child, 'train_dataloader = dict(dataset=dict(pipeline=train_pipeline))')
    assert strict.load(child).train_dataloader.dataset.pipeline == []


def test_transforms_of_albumentations_are_not_looked_up_in_our_registries(leaf: Path) -> None:
    steps = [
        dict(type='Albu', transforms=[dict(type='OneOf', transforms=[dict(type='Blur', p=0.5)], p=0.1)]),
        dict(type='RandomFlip', prob=0.5),
    ]
    cfg = strict.load(leaf)
    strict.merge_options(cfg, {'train_dataloader.dataset.pipeline': steps})
    steps[0]['transfroms'] = []
    with pytest.raises(UserError, match="has no key 'transfroms'; did you mean transforms"):
        strict.merge_options(cfg, {'train_dataloader.dataset.pipeline': steps})


def test_allowed_keys_of_retinanet() -> None:
    model = dict(type='RetinaNet', test_cfg=dict(nms_pre=1000, score_thr=0.05, rcnn=dict()))
    with pytest.raises(UserError, match=r"model\.test_cfg has no key 'rcnn'"):
        strict.check_keys(Config(dict(model=model)))


# --cfg-options


@pytest.mark.parametrize(
    'options',
    [
        {'optim_wrapper.optimizer.lr': 0.01},
        {'optim_wrapper.optimizer.nesterov': True},  # not in the config, but SGD takes it
        {'optim_wrapper.accumulative_counts': 2},
        {'model.test_cfg.rcnn.score_thr': 0.01},
        {'model.test_cfg.rpn.min_bbox_size': 0},  # not in the config, but the RPN uses it
        {'model.test_cfg.rcnn.nms.class_agnostic': True},
        {'model.rpn_head.loss_bbox.beta': 0.1},
        {'model.backbone.bn_policy': 'eval'},
        {'model.backbone.frozen_stages': 1},
        {'train_dataloader.dataset.pipeline.0.scale': (500, 300)},
        {'train_dataloader.dataset.data_prefix.sub_data_root': 'VOC2012/'},
        {'param_scheduler.0.gamma': 0.5},
        {'default_hooks.checkpoint.interval': 2},
        {'randomness.seed': 3},
        {'load_from': 'a.pth'},
    ],
    ids=lambda options: next(iter(options)),
)
def test_an_option_is_merged(leaf: Path, options: dict[str, Any]) -> None:
    cfg, expected = strict.load(leaf), strict.load(leaf)
    strict.merge_options(cfg, options)
    expected.merge_from_dict(options)
    assert cfg.to_dict() == expected.to_dict() != strict.load(leaf).to_dict()


INVALID = [
    ('train_cgf.max_epochs', 1, "no key 'train_cgf'; did you mean train_cfg"),
    (
        'model.test_cfg.rcnn.score_thrr',
        0.1,
        r"model\.test_cfg\.rcnn has no key 'score_thrr'; .* score_thr\?",
    ),
    (
        'model.bakbone.bn_policy',
        'eval',
        r"model \(FasterRCNN\) has no key 'bakbone'; did you mean backbone",
    ),
    ('optim_wrapper.optimizer.type', 'AdamW', r"optimizer \(AdamW\) has no key 'momentum'"),
    (
        'train_dataloader.dataset.data_prefix.img',
        'a',
        r"data_prefix has no key 'img'; add the key in a config",
    ),
    ('param_scheduler.3.gamma', 1, r'cfg-options param_scheduler\.3\.gamma: KeyError: Index 3'),
    ('param_scheduler.0', 1, r'cfg-options param_scheduler\.0: AttributeError'),
    ('work_dir.name', 1, r'cfg-options work_dir\.name: TypeError'),
    (
        'train_pipeline.0.scale',
        (1, 1),
        r'setting it has no effect; set train_dataloader\.dataset\.pipeline',
    ),
    ('data_root', 'elsewhere', 'use --data-root'),
]


@pytest.mark.parametrize(('key', 'value', 'message'), INVALID, ids=[case[0] for case in INVALID])
def test_an_invalid_option(leaf: Path, key: str, value: Any, message: str) -> None:
    cfg = strict.load(leaf)
    with pytest.raises(UserError, match=message):
        strict.merge_options(cfg, {'randomness.seed': 1, key: value})
    assert cfg.to_dict() == strict.load(leaf).to_dict()  # unchanged, also by the valid option


@pytest.mark.parametrize(
    ('key', 'value'),
    [
        ('model.type', 'RetinaNet'),
        ('model.backbone.arch', 'menet_228_12x1_g3'),
        ('model.backbone', {'arch': 'menet_228_12x1_g3'}),
        ('model.backbone.type', 'ShuffleNet'),
        ('model.backbone.out_strides', (8,)),
        ('model.backbone.out_strides.0', 8),
        ('model.roi_head.shared_head.arch', 'menet_228_12x1_g3'),
        ('model.roi_head.bbox_head.num_classes', 3),
        ('model.rpn_head.in_channels', 3),
        ('model.roi_head.bbox_roi_extractor.out_channels', 3),
        ('model.roi_head.bbox_roi_extractor.featmap_strides', [8]),
        ('model.roi_head.bbox_roi_extractor.roi_layer.output_size', 14),
    ],
)
def test_an_option_from_which_other_values_are_derived(leaf: Path, key: str, value: Any) -> None:
    cfg = strict.load(leaf)
    with pytest.raises(UserError, match=r'were derived from it.*model = frcnn_c4\(') as caught:
        strict.merge_options(cfg, {key: value})
    assert str(leaf) in str(caught.value)
    assert cfg.to_dict() == strict.load(leaf).to_dict()


def test_the_message_has_a_leaf_config_with_the_intended_effect(leaf: Path) -> None:
    with pytest.raises(UserError, match="'menet_228_12x1_g3', num_classes=20"):
        strict.merge_options(strict.load(leaf), {'model.backbone.arch': 'menet_228_12x1_g3'})
    cfg = Config(dict(model=dict(type='FasterRCNN', neck=dict(type='FPN'), backbone=dict(arch='a'))))
    with pytest.raises(UserError, match=r"frcnn_fpn\('a', num_classes=3\)"):
        strict.merge_options(cfg, {'model.roi_head.bbox_head.num_classes': 3})
    cfg.model.type = 'RetinaNet'
    with pytest.raises(UserError, match=r"retinanet_fpn\('b', num_classes=N\)"):
        strict.merge_options(cfg, {'model.backbone.arch': 'b'})
