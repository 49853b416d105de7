"""A run folder of the embedded config with random weights, in the form that a training leaves."""

from pathlib import Path

import torch
from mmengine.registry import DefaultScope

from compactdet.config import strict
from compactdet.data import shapes
from compactdet.mmdetection import MODELS
from compactdet.records import record_file
from compactdet.training.model_checks import describe_inputs

from record_examples import example_record

CONFIG = Path(__file__).parents[2] / 'det_configs/menet_frcnn_shapes.py'


def write(folder: Path) -> Path:
    """Write the run into a folder and return it."""
    cfg = strict.load(CONFIG)
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(cfg.model)
    model.roi_head.bbox_head.fc_cls.weight.data /= 1000  # scores strictly between 0 and 1
    meta = {'config': '__import__("os").abort()', 'inputs': describe_inputs(model), 'epoch': 3}
    torch.save({'state_dict': model.state_dict(), 'meta': meta}, folder / 'epoch_3.pth')
    (folder / 'last_checkpoint').write_text('/where/it/was/trained/epoch_3.pth')
    record = example_record()
    record['config'] = {'file': CONFIG.name, 'text': strict.resolved_text(cfg)}
    record['dataset']['classes'] = list(shapes.CLASSES)
    record['training']['chosen'] = None
    record_file.write(folder / 'record.json', record)
    return folder
