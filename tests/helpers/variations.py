"""Parts and settings of MMDetection that the suite's configs do not have: changes of a leaf config.

``tests/test_variations.py`` trains each for one step, evaluates and records it; the table is
in ``det_configs/README.md``.
"""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass, field
from typing import Any

ARCH = 'mobilenetv2_0.4x'
STRIDES = [8, 16, 32, 64, 128]  # of the five maps of RetinaNet's neck
GN = dict(type='GN', num_groups=8)
FOCAL = dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0)
SIGMOID = dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1.0)
GIOU = dict(type='GIoULoss', loss_weight=2.0)
IOU = dict(type='IoULoss', loss_weight=1.0)
QUALITY = dict(type='QualityFocalLoss', use_sigmoid=True, beta=2.0, loss_weight=1.0)
DFL = dict(type='DistributionFocalLoss', loss_weight=0.25)
DENSE = dict(num_classes=8, in_channels=64, stacked_convs=1, feat_channels=64)
CELLS = dict(
    type='AnchorGenerator', ratios=[1.0], octave_base_scale=8, scales_per_octave=1, strides=STRIDES
)
DELTA = dict(type='DeltaXYWHBBoxCoder', target_means=[0.0] * 4, target_stds=[0.1, 0.1, 0.2, 0.2])
ATSS = dict(assigner=dict(type='ATSSAssigner', topk=9), allowed_border=-1, pos_weight=-1, debug=False)
NEGATIVES = dict(type='IoUBalancedNegSampler', floor_thr=-1, floor_fraction=0, num_bins=3)
LOAD = dict(type='LoadImageFromFile', color_type='color_ignore_orientation')
BOXES = dict(type='LoadAnnotations', with_bbox=True)
META = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')


def head(kind: str, **options: Any) -> dict[str, Any]:
    """Return the config of a dense head on the maps of RetinaNet's neck."""
    return dict(type=kind, **DENSE, **options)


def dense(detector: str, bbox_head: dict[str, Any], train_cfg: Any = None) -> dict[str, Any]:
    """Return the change that replaces RetinaNet by another single-stage detector on its neck."""
    return {'model.type': detector, 'model.bbox_head': bbox_head, 'model.train_cfg': train_cfg}


def train_steps(*steps: dict[str, Any]) -> dict[str, Any]:
    """Return the change of the training pipeline between loading and packing."""
    return {'train_dataloader.dataset.pipeline': [LOAD, BOXES, *steps, dict(type='PackDetInputs')]}


def test_steps(*steps: dict[str, Any]) -> dict[str, Any]:
    """Return the change of the test pipeline between loading and packing."""
    pack = dict(type='PackDetInputs', meta_keys=META)
    return {'test_dataloader.dataset.pipeline': [LOAD, *steps, BOXES, pack]}


@dataclass(frozen=True)
class Variation:
    """A change of a leaf config.

    Attributes:
        name: What is changed, for the table.
        base: The detector of the leaf config.
        changes: Values by dotted place; the parts of `config` are replaced, not merged.
        detector: Name of the detector in the record; '' is that of ``base``.
        refused: Pattern of the one line with which the run is refused; '' if it is supported.
        reason: Why it is refused, for the table.
        measured: Whether the record has the costs of all parts.
        needs: Package that it needs, by its import name; refused without it.
    """

    name: str
    base: str
    changes: dict[str, Any] = field(repr=False)
    detector: str = ''
    refused: str = ''
    reason: str = ''
    measured: bool = True
    needs: str = ''


C4, FPN, RETINA = 'frcnn_c4', 'frcnn_fpn', 'retinanet_fpn'
ROI, RCNN = 'model.roi_head', 'model.train_cfg.rcnn'
BOX_HEAD = f'{ROI}.bbox_head'

VARIATIONS = [
    # Faster R-CNN C4
    Variation('RoIPool', C4, {f'{ROI}.bbox_roi_extractor.roi_layer': dict(type='RoIPool', output_size=7)}),
    Variation('OHEMSampler', C4, {f'{RCNN}.sampler.type': 'OHEMSampler'}),
    Variation('soft-NMS', C4, {'model.test_cfg.rcnn.nms': dict(type='soft_nms', iou_threshold=0.5)}),
    Variation('SmoothL1Loss', C4, {f'{BOX_HEAD}.loss_bbox': dict(type='SmoothL1Loss', beta=1.0)}),
    Variation('GIoULoss on decoded boxes', C4, {f'{BOX_HEAD}.loss_bbox': GIOU,
        f'{BOX_HEAD}.reg_decoded_bbox': True}),
    Variation('class-agnostic boxes', C4, {f'{BOX_HEAD}.reg_class_agnostic': True}),
    Variation('gradient accumulation', C4, {'optim_wrapper.accumulative_counts': 2}),
    Variation('AdamW', C4, {'optim_wrapper.optimizer': dict(type='AdamW', lr=1e-4, weight_decay=0.05)}),
    Variation('IterBasedTrainLoop, InfiniteSampler', C4, {
        'train_cfg': dict(type='IterBasedTrainLoop', max_iters=1, val_interval=1),
        'train_dataloader.sampler': dict(type='InfiniteSampler'),
    }),
    Variation('EMAHook', C4, {'custom_hooks': [dict(type='EMAHook', momentum=0.01)]}),
    Variation('CosineAnnealingLR as the only schedule', C4,
        {'param_scheduler': dict(type='CosineAnnealingLR', T_max=1)}),
    Variation('RepeatDataset', C4, {'train_dataloader.dataset': dict(type='RepeatDataset', times=2,
        dataset='<train_dataloader.dataset>')}),
    Variation('CascadeRoIHead with a stage head', C4, {
        'model.type': 'CascadeRCNN', f'{ROI}.type': 'CascadeRoIHead', f'{ROI}.num_stages': 1,
            f'{ROI}.stage_loss_weights': [1],
    }, refused='Shared head is not supported',
        reason='a cascade has no stage head'),
    # Faster R-CNN FPN
    Variation('PAFPN', FPN, {'model.neck.type': 'PAFPN'}, 'frcnn_pafpn'),
    Variation('BFP after the FPN', FPN, {'model.neck': ['<model.neck>', dict(type='BFP', in_channels=64,
        num_levels=5)]}, 'frcnn_fpn_bfp'),
    Variation('DCNv2 in the neck', FPN, {'model.neck.conv_cfg': dict(type='DCNv2')}),
    Variation('GroupNorm in neck and heads', FPN, {
        'model.neck.norm_cfg': GN,
        f'{BOX_HEAD}.type': 'Shared4Conv1FCBBoxHead', f'{BOX_HEAD}.conv_out_channels': 64,
            f'{BOX_HEAD}.norm_cfg': GN,
    }),
    Variation('CascadeRCNN', FPN, {
        'model.type': 'CascadeRCNN', f'{ROI}.type': 'CascadeRoIHead', f'{ROI}.num_stages': 2,
            f'{ROI}.stage_loss_weights': [1, 0.5],
        f'{ROI}.bbox_head': ['<model.roi_head.bbox_head>', '<model.roi_head.bbox_head>'],
            RCNN: ['<model.train_cfg.rcnn>', '<model.train_cfg.rcnn>'],
    }, 'cascadercnn_fpn'),
    Variation('DoubleHeadRoIHead', FPN, {
        f'{ROI}.type': 'DoubleHeadRoIHead', f'{ROI}.reg_roi_scale_factor': 1.3,
        f'{BOX_HEAD}.type': 'DoubleConvFCBBoxHead', f'{BOX_HEAD}.num_convs': 1, f'{BOX_HEAD}.num_fcs': 1,
        f'{BOX_HEAD}.conv_out_channels': 32, f'{BOX_HEAD}.fc_out_channels': 32,
    }, 'frcnn_doublehead_fpn'),
    Variation('DynamicRoIHead', FPN, {
        f'{ROI}.type': 'DynamicRoIHead',
        f'{BOX_HEAD}.loss_bbox': dict(type='SmoothL1Loss', beta=1.0),
        f'{RCNN}.dynamic_rcnn': dict(iou_topk=75, beta_topk=10, update_iter_interval=100, initial_iou=0.4,
            initial_beta=1.0),
    }, 'frcnn_dynamic_fpn'),
    Variation('BalancedL1Loss, IoUBalancedNegSampler', FPN, {
        f'{BOX_HEAD}.loss_bbox': dict(type='BalancedL1Loss', alpha=0.5, gamma=1.5, beta=1.0),
        f'{RCNN}.sampler': dict(type='CombinedSampler', num=16, pos_fraction=0.25, add_gt_as_proposals=True,
                                pos_sampler=dict(type='InstanceBalancedPosSampler'), neg_sampler=NEGATIVES),
    }),
    Variation('GenericRoIExtractor', FPN, {f'{ROI}.bbox_roi_extractor.type': 'GenericRoIExtractor'}),
    Variation('class-agnostic NMS', FPN, {'model.test_cfg.rcnn.nms.class_agnostic': True}),
    Variation('MaskRCNN on boxes alone', FPN, {
        'model.type': 'MaskRCNN', f'{ROI}.mask_roi_extractor': '<model.roi_head.bbox_roi_extractor>',
        f'{ROI}.mask_head': dict(type='FCNMaskHead', num_convs=1, in_channels=64, conv_out_channels=8,
            num_classes=8),
    }, refused='mask', reason='the suite reads no masks'),
    Variation('CARAFE neck', FPN, {'model.neck': dict(type='FPN_CARAFE',
        in_channels='<model.neck.in_channels>', out_channels=64, num_outs=5)},
              refused='carafe', reason='needs mmcv with its compiled operators'),
    Variation('multi-scale training', FPN, train_steps(dict(type='RandomChoiceResize', scales=[(64, 64),
        (96, 96)], keep_ratio=True))),
    Variation('one number as the size', FPN, train_steps(dict(type='Resize', scale=64, keep_ratio=True))
              | test_steps(dict(type='Resize', scale=64, keep_ratio=True))),
    Variation('RandomCrop, PhotoMetricDistortion', FPN, train_steps(
        dict(type='RandomCrop', crop_size=(96, 96)), dict(type='PhotoMetricDistortion'))),
    Variation('Albu', FPN, train_steps(dict(type='Resize', scale=(64, 64)), dict(type='Albu', transforms=[
        dict(type='HorizontalFlip', p=0.5)], keymap=dict(img='image', gt_bboxes='bboxes'), bbox_params=dict(
            type='BboxParams', format='pascal_voc', label_fields=['gt_bboxes_labels', 'gt_ignore_flags'],
            min_visibility=0.0, filter_lost_elements=True))), needs='albumentations'),
    Variation('FixScaleResize and Pad at test', FPN, test_steps(
        dict(type='FixScaleResize', scale=(64, 64), keep_ratio=True), dict(type='Pad', size=(96, 96)))),
    Variation('Resize by a factor at test', FPN, test_steps(dict(type='Resize', scale_factor=0.5,
        keep_ratio=True))),
    Variation('no Resize at test', FPN, test_steps(), refused='sets no scale_factor',
              reason="add `Resize(scale_factor=1.0)`"),
    Variation('ConcatDataset', FPN, {'train_dataloader.dataset': dict(type='ConcatDataset',
        datasets=['<train_dataloader.dataset>', '<train_dataloader.dataset>'])}),
    # RetinaNet
    Variation('no pad_size_divisor', RETINA, {'model.data_preprocessor': dict(type='DetDataPreprocessor',
        mean=[0.0] * 3, std=[255.0] * 3)}),
    Variation('GHMC, GHMR', RETINA, {
        'model.bbox_head.loss_cls': dict(type='GHMC', bins=30, momentum=0.75, use_sigmoid=True),
        'model.bbox_head.loss_bbox': dict(type='GHMR', mu=0.02, bins=10, momentum=0.7),
    }),
    Variation('FreeAnchorRetinaHead', RETINA, {
        'model.bbox_head.type': 'FreeAnchorRetinaHead',
            'model.bbox_head.loss_bbox': dict(type='SmoothL1Loss', beta=0.11)},
        'retinanet_freeanchorretina_fpn'),
    Variation('RetinaSepBNHead', RETINA, {'model.bbox_head.type': 'RetinaSepBNHead',
        'model.bbox_head.num_ins': 5,
              'model.bbox_head.norm_cfg': dict(type='BN')}, 'retinanet_retinasepbn_fpn'),
    Variation('FCOS', RETINA, dense('FCOS', head('FCOSHead', strides=STRIDES, loss_cls=FOCAL, loss_bbox=IOU,
              loss_centerness=SIGMOID)), 'fcos_fpn'),
    Variation('ATSS', RETINA, dense('ATSS', head('ATSSHead', anchor_generator=CELLS, bbox_coder=DELTA,
        loss_cls=FOCAL,
              loss_bbox=GIOU, loss_centerness=SIGMOID), ATSS), 'atss_fpn'),
    Variation('GFL', RETINA, dense('GFL', head('GFLHead', anchor_generator=CELLS, loss_cls=QUALITY,
        loss_dfl=DFL, reg_max=16,
              loss_bbox=GIOU), ATSS), 'gfl_fpn'),
    Variation('PAA', RETINA, dense('PAA', head('PAAHead', reg_decoded_bbox=True, score_voting=True, topk=9,
              anchor_generator=CELLS, bbox_coder=DELTA, loss_cls=FOCAL, loss_bbox=GIOU,
                  loss_centerness=SIGMOID),
              dict(assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.1, neg_iou_thr=0.1, min_pos_iou=0,
                  ignore_iof_thr=-1),
                   allowed_border=-1, pos_weight=-1, debug=False)), 'paa_fpn', needs='sklearn'),
    Variation('FSAF', RETINA, {
        'model.type': 'FSAF', 'model.bbox_head': head('FSAFHead', reg_decoded_bbox=True,
            anchor_generator=dict(CELLS, octave_base_scale=1), bbox_coder=dict(type='TBLRBBoxCoder',
                normalizer=4.0),
            loss_cls=dict(FOCAL, reduction='none'), loss_bbox=dict(IOU, eps=1e-6, reduction='none')),
        'model.train_cfg.assigner': dict(type='CenterRegionAssigner', pos_scale=0.2, neg_scale=0.2,
            min_pos_iof=0.01),
    }, 'fsaf_fpn'),
    Variation('FOVEA', RETINA, dense('FOVEA', head('FoveaHead', strides=STRIDES, base_edge_list=[16, 32,
        64, 128, 256],
              scale_ranges=((1, 64), (32, 128), (64, 256), (128, 512), (256, 2048)), sigma=0.4,
                  with_deform=False,
              loss_cls=FOCAL, loss_bbox=dict(type='SmoothL1Loss', beta=0.11)), {}), 'fovea_fpn'),
    Variation('RepPointsDetector', RETINA, dense('RepPointsDetector', head('RepPointsHead',
        point_feat_channels=64, num_points=9,
              gradient_mul=0.1, point_strides=STRIDES, point_base_scale=4, loss_cls=FOCAL), dict(
              init=dict(assigner=dict(type='PointAssigner', scale=4, pos_num=1), allowed_border=-1,
                  pos_weight=-1, debug=False),
              refine=dict(assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4,
                  min_pos_iou=0, ignore_iof_thr=-1),
                          allowed_border=-1, pos_weight=-1, debug=False))), 'reppointsdetector_fpn'),
    Variation('VFNet', RETINA, dense('VFNet', head('VFNetHead', strides=STRIDES, center_sampling=False,
        use_atss=True, use_vfl=True,
              loss_cls=dict(type='VarifocalLoss', use_sigmoid=True, alpha=0.75, gamma=2.0,
                  iou_weighted=True), loss_bbox=GIOU,
              loss_bbox_refine=GIOU), ATSS), 'vfnet_fpn'),
    Variation('TOOD', RETINA, dense('TOOD', dict(head('TOODHead', anchor_type='anchor_free',
        anchor_generator=CELLS, bbox_coder=DELTA,
              initial_loss_cls=dict(FOCAL, activated=True), loss_cls=dict(QUALITY, activated=True),
                  loss_bbox=GIOU), stacked_convs=6),
              dict(initial_epoch=4, initial_assigner=dict(type='ATSSAssigner', topk=9),
                  assigner=dict(type='TaskAlignedAssigner', topk=13),
                   alpha=1, beta=6, allowed_border=-1, pos_weight=-1, debug=False)),
              'tood_fpn', measured=False),
    Variation('YOLOX', RETINA, {
        **dense('YOLOX', head('YOLOXHead', strides=[8, 16, 32]), dict(assigner=dict(type='SimOTAAssigner',
            center_radius=2.5))),
        'model.neck': dict(type='YOLOXPAFPN', in_channels='<model.neck.in_channels>', out_channels=64,
            num_csp_blocks=1),
        'model.test_cfg': dict(score_thr=0.01, nms=dict(type='nms', iou_threshold=0.65)),
    }, 'yolox_yoloxpafpn'),
    Variation('Mosaic in MultiImageMixDataset', RETINA, {
        'train_dataloader.dataset': dict(type='MultiImageMixDataset', dataset=dict(
            type='VOCFormatDataset', data_root='<train_dataloader.dataset.data_root>',
                ann_file='ImageSets/Main/train.txt',
            metainfo='<train_dataloader.dataset.metainfo>', pipeline=[LOAD, BOXES]),
            pipeline=[dict(type='Mosaic', img_scale=(64, 64)), dict(type='PackDetInputs')])}),
    Variation('CocoMetric without `ann_file`', RETINA, {
        'test_evaluator': dict(type='CocoMetric', metric='bbox'),
    }, refused='ground truth is required', reason='give it a file in COCO format'),
    Variation('VOCMetric', RETINA, {'test_evaluator': dict(type='VOCMetric', metric='mAP')}),
]  # fmt: skip


def config(variation: Variation, data_root: str) -> Any:
    """Return the config of a variation: one step on the tiny set, images of 64 pixels."""
    # here: the table needs no PyTorch
    from mmengine.config import Config

    from compactdet.config.choice import DetectorChoice
    from compactdet.config.compose import compose_config
    from compactdet.data import shapes

    cfg = compose_config(DetectorChoice(ARCH, variation.base, 'shapes')).to_dict()
    resize = dict(type='Resize', scale=(64, 64), keep_ratio=True)
    changes = {
        **train_steps(resize),
        **test_steps(resize),
        'train_dataloader.batch_size': 4,
        'train_cfg': dict(type='EpochBasedTrainLoop', max_epochs=1),
        'default_hooks.checkpoint': dict(type='SafeCheckpointHook', interval=1),
        **{f'val_{part}': None for part in ('dataloader', 'cfg', 'evaluator')},
    }
    for name in ('train', 'test'):
        changes[f'{name}_dataloader.dataset.type'] = 'VOCFormatDataset'
        changes[f'{name}_dataloader.dataset.data_root'] = data_root
        changes[f'{name}_dataloader.dataset.metainfo'] = dict(classes=tuple(shapes.CLASSES))
    for place, value in changes.items():
        put(cfg, place, value)
    original = copy.deepcopy(cfg)
    for place, value in variation.changes.items():
        put(cfg, place, fill(value, original))
    return Config(cfg)


def put(cfg: dict[str, Any], place: str, value: Any) -> None:
    """Set the value at a dotted place."""
    *parents, last = place.split('.')
    for key in parents:
        cfg = cfg[key]
    cfg[last] = value


def fill(value: Any, cfg: Any) -> Any:
    """Return a value with every text ``'<PLACE>'`` replaced by what stands at that place of a config."""
    if isinstance(value, dict):
        return {key: fill(item, cfg) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(fill(item, cfg) for item in value)
    if isinstance(value, str) and value.startswith('<'):
        return copy.deepcopy(functools.reduce(lambda part, key: part[key], value[1:-1].split('.'), cfg))
    return value


def table() -> str:
    """Return the table of the variations for ``det_configs/README.md``."""
    lines = [('part or setting', 'changed in', 'supported'), ('---',) * 3]
    for row in VARIATIONS:
        answer = 'yes' if row.measured else 'yes, without costs'
        answer += f', with `{row.needs}`' if row.needs else ''
        lines.append((row.name, f'`{row.base}`', f'no: {row.reason}' if row.refused else answer))
    return ''.join(f'| {" | ".join(line)} |\n' for line in lines)
