"""A complete example record, and changes of it."""

import functools
import json
from typing import Any

from compactdet.records import record_file

SPLIT = dict(
    images=2,
    boxes=5,
    difficult=1,
    dropped=[dict(image='BloodImage_00338', objects=[3])],
    annotations_sha256='0' * 64,
    ann_file='ImageSets/Main/test.txt',
)

MACS = dict(
    backbone_macs=10,
    neck_macs=4,
    rpn_macs=3,
    roi_head_macs_per_proposal=2,
    roi_head_macs=600,
    total_macs=613,
)

NETWORK = dict(
    size=224,
    trunk_macs=37_000_000,
    classifier_macs=38_000_000,
    trunk_params=220_000,
    classifier_params=650_000,
)

COSTS = dict(height=224, width=224, num_proposals=300, **MACS)


def example_record() -> dict[str, Any]:
    """Return a small complete record without keys and config.sha256, for ``record_file.write``."""
    chosen = dict(checkpoint='epoch_5.pth', epoch=5, metric='voc07_ap50', value=0.7)
    hardware = dict(cpu='a CPU', cores=2, threads=2, gpu=None, gpu_memory_bytes=None)
    training = dict(wall_s=900.5, iterations=300, epochs=6, images_per_s=2.5, batch_size=4)
    loaded = dict(backbone=1.0, shared_head=1.0)
    init = dict(file='menet_108_8x1_g3.safetensors', sha256='a' * 64, loaded=loaded)
    pretraining = dict(data='ImageNet-1k', recipe=None, top1=0.56, top5=None)
    record = dict(
        schema_version=record_file.SCHEMA_VERSION,
        created_utc='2026-11-20T16:38:00Z',
        **dict(arch='menet_108_8x1_g3', family='MENet', detector='FasterRCNN C4', seed=0),
        dataset=dict(name='BCCD', classes=['RBC', 'WBC'], splits=dict(train=SPLIT, test=SPLIT)),
        protocol=dict(init='ImageNet', optimiser=dict(lr=0.02)),
        init={'class': 'ImageNet', **init, 'pretraining': pretraining},
        config=dict(file='menet_frcnn_bccd.py', text='seed = 0\n'),
        command='python tools/train.py det_configs/menet_frcnn_bccd.py',
        git=dict(commit='b' * 40, dirty=False),
        versions=dict(python='3.11.7', cuda=None),
        hardware=dict(**hardware, memory_bytes=8 * 2**30, platform='Linux'),
        training=dict(**training, peak_memory_bytes=2**30, chosen=chosen),
        evaluation=dict(wall_s=10.0, images_per_s=None),
        costs=dict(
            network=NETWORK,
            at_224=COSTS,
            at_input=COSTS,
            params=dict(backbone=7, rpn=2, roi_head=3, total=12),
        ),
        metrics=dict(val=None, test=dict(voc07_ap50=0.6951234567890123, coco_ap_small=None)),
    )
    return json.loads(json.dumps(record))


def put(record: dict[str, Any], place: str, value: Any) -> dict[str, Any]:
    """Change the value at a dotted place of a record, and return the record."""
    *path, last = place.split('.')
    functools.reduce(dict.__getitem__, path, record)[last] = value
    return record
