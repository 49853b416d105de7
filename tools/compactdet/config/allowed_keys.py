"""Tables of allowed config keys that are not parameters of a class, for ``compactdet.config.strict``."""

import inspect
from collections.abc import Collection

from torch.utils.data import DataLoader

# Allowed top-level keys besides the parameters of MMEngine's Runner.
ALSO_READ = (
    'custom_imports', 'auto_scale_lr', 'compile', 'runner_type', 'tta_model', 'tta_pipeline', 'lr_choice',
    'allow_leaks', 'cuda_graphs',
)  # fmt: skip

# Variables of config files, with the remedy for setting one afterwards: their values are copied when the
# config is read, so a later change has no effect.
VARIABLES = {
    'data_root': 'use --data-root',
    'dataset_type': 'set train_dataloader.dataset.type and the like',
    'metainfo': 'set train_dataloader.dataset.metainfo and the like',
    'known_defects': 'set train_dataloader.dataset.known_defects and the like',
    'how_to_get': 'set train_dataloader.dataset.how_to_get and the like',
    'backend_args': 'set train_dataloader.dataset.backend_args and the like',
    'train_pipeline': 'set train_dataloader.dataset.pipeline',
    'test_pipeline': 'set val_dataloader.dataset.pipeline and test_dataloader.dataset.pipeline',
    'vis_backends': 'set visualizer.vis_backends',
    'norm_cfg': 'set model.backbone.norm_cfg and the like',
    'recipe': 'set train_dataloader.batch_size and the like, or choose another --recipe',
}

_RPN_TEST = ('nms_pre', 'max_per_img', 'nms', 'min_bbox_size')
_DENSE_TRAIN = ('assigner', 'sampler', 'allowed_border', 'pos_weight', 'debug')

# Allowed keys of dicts without a `type`, by pattern of the dotted path (`*` matches dots too).
PLAIN: dict[str, Collection[str]] = {
    '*_dataloader': ('dataset', 'num_batch_per_epoch', *inspect.signature(DataLoader).parameters),
    '*.filter_cfg': ('filter_empty_gt', 'min_size', 'bbox_min_size'),
    'default_hooks': ('runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler',
                      'checkpoint', 'visualization'),
    'optim_wrapper.clip_grad': ('type', 'max_norm', 'norm_type', 'error_if_nonfinite', 'foreach',
                                'clip_value'),
    'optim_wrapper.paramwise_cfg': ('custom_keys', 'bias_lr_mult', 'bias_decay_mult',
                                    'norm_decay_mult', 'flat_decay_mult', 'dwconv_decay_mult',
                                    'dcn_offset_lr_mult', 'bypass_duplicate'),
    'optim_wrapper.paramwise_cfg.custom_keys.*': ('lr_mult', 'decay_mult'),
    'env_cfg': ('cudnn_benchmark', 'mp_cfg', 'dist_cfg', 'resource_limit', 'tf32'),
    'env_cfg.mp_cfg': ('mp_start_method', 'opencv_num_threads'),
    'env_cfg.dist_cfg': ('backend', 'timeout', 'init_method'),
    'randomness': ('seed', 'diff_rank_seed', 'deterministic'),
    'auto_scale_lr': ('enable', 'base_batch_size'),
    'custom_imports': ('imports', 'allow_failed_imports'),
}  # fmt: skip

# Allowed keys of model.train_cfg and model.test_cfg, by detector.
DETECTOR_PARTS: dict[str, dict[str, Collection[str]]] = {
    'FasterRCNN': {
        'model.train_cfg': ('rpn', 'rpn_proposal', 'rcnn'),
        'model.train_cfg.rpn': _DENSE_TRAIN,
        'model.train_cfg.rpn_proposal': _RPN_TEST,
        'model.train_cfg.rcnn': ('assigner', 'sampler', 'pos_weight', 'debug', 'dynamic_rcnn'),
        'model.test_cfg': ('rpn', 'rcnn'),
        'model.test_cfg.rpn': _RPN_TEST,
        'model.test_cfg.rcnn': ('score_thr', 'nms', 'max_per_img'),
    },
    'RetinaNet': {
        'model.train_cfg': _DENSE_TRAIN,
        'model.test_cfg': (*_RPN_TEST, 'score_thr'),
    },
}

# Allowed keys that are not passed to the class but used by its builder, by pattern of the dotted path.
BUILDER_KEYS = {
    '*': ('type', '_scope_'),
    'optim_wrapper': ('optimizer', 'paramwise_cfg', 'constructor'),
    'param_scheduler*': ('convert_to_iter_based',),
    '*_hooks.*': ('priority',),
    '*.nms': ('class_agnostic', 'split_thr'),
    '*norm_cfg': ('requires_grad',),
    '*init_cfg*': ('override',),
    'train_cfg': ('by_epoch',),
}

# Parts that are classes of another library, by type and key.
OTHER_LIBRARIES = {'Albu': ('transforms', 'bbox_params')}  # albumentations

# Types of dicts without a `type`, by pattern of the dotted path.
DEFAULT_TYPES = {
    'optim_wrapper': 'OptimWrapper',
    'val_cfg': 'ValLoop',
    'test_cfg': 'TestLoop',
    'log_processor': 'LogProcessor',
    '*.nms': 'nms',
}

# Patterns of values from which others are derived; an option that changes one would leave the others as
# they are.
DERIVED_FROM = (
    'model.type', 'model.backbone.type', 'model.backbone.arch', 'model.backbone.out_strides',
    'model.backbone.conventions', '*.shared_head.type', '*.shared_head.arch', '*.shared_head.in_stride',
    '*.shared_head.conventions', 'model.neck.type', 'model.neck.out_channels', 'model.*in_channels',
    '*.bbox_roi_extractor.out_channels', '*.featmap_strides', '*.anchor_generator.strides',
    '*.roi_layer.output_size', '*.roi_feat_size', '*.num_classes', '*.metainfo.classes',
)  # fmt: skip
