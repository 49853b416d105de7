"""Facts about the config of a detector: its name in records and tables, its number of classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Detector types with another name in records. The last two stand for any detector with their heads.
NAMES = {'FasterRCNN': 'frcnn', 'SingleStageDetector': '', 'TwoStageDetector': ''}
# Heads that a name does not state.
USUAL_HEADS = ('Standard', 'RPN')


def detector_name(model: Mapping[str, Any]) -> str:
    """Return the name of a detector's config, from the types of detector, heads and neck.

    The detectors of the wiring functions have the names of these functions.

    >>> detector_name({'type': 'FasterRCNN', 'roi_head': {'shared_head': {}}})
    'frcnn_c4'
    >>> detector_name({'type': 'FCOS', 'bbox_head': {'type': 'FCOSHead'}, 'neck': {'type': 'PAFPN'}})
    'fcos_pafpn'
    """
    kind = _name(model)
    parts = [NAMES.get(kind, kind)]
    for part, suffix in (('rpn_head', 'Head'), ('roi_head', 'RoIHead'), ('bbox_head', 'Head')):
        head = _name(model.get(part)).removesuffix(suffix)
        if head not in USUAL_HEADS and not kind.lower().startswith(head.lower()):
            parts.append(head)
    necks = model.get('neck') or []
    parts += map(_name, necks if isinstance(necks, list | tuple) else [necks])
    if not necks and (model.get('roi_head') or {}).get('shared_head'):
        parts.append('c4')
    return '_'.join(filter(None, parts)).lower()


def head_classes(model: Mapping[str, Any]) -> list[int]:
    """Return the number of classes of each box head in a detector's config that states it."""
    heads = (model.get('roi_head') or model).get('bbox_head') or []
    heads = heads if isinstance(heads, list | tuple) else [heads]  # CascadeRCNN has one for each stage
    return [head['num_classes'] for head in heads if 'num_classes' in head]


def _name(part: Mapping[str, Any] | None) -> str:
    """Return the name of a part's class, without the registry's; '' without the part."""
    kind = (part or {}).get('type', '')
    return str(getattr(kind, '__name__', kind)).rpartition('.')[2]
