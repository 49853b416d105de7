"""Read a published PyTorch or safetensors file: its named tensors and its metadata.

No code in a file is executed; configs that checkpoints contain as text are only searched for literals.
"""

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from backbones import Conventions, Preprocessing
from backbones.weights import check_file, listing, load_pickle_safely
from compactdet.errors import UserError

# Keys of the tensors in a file, the best first: authors evaluate the moving average.
STATE_DICTS = ('state_dict_ema', 'state_dict', 'model_ema', 'model')
# Only detectors have these.
DETECTOR = ('rpn_head.', 'roi_head.', 'bbox_head.', 'neck.')


@dataclass(frozen=True)
class Published:
    """A published file.

    Attributes:
        entries: Its named tensors without the prefix of ``DataParallel``; of a detector those of the
            backbone.
        meta: The other content.
        detector: Whether it is a detector.
        ordered: Whether the entries have the order of registration.
    """

    entries: dict[str, Tensor]
    meta: Mapping[str, Any]
    detector: bool
    ordered: bool


def read_published(file: str | Path) -> Published:
    """Read a file without executing code from it.

    Raises:
        WeightsError: A PyTorch file that cannot be read.
        UserError: Another file cannot be read, there are no named tensors, or not only tensors.
    """
    check_file(file)
    ordered = Path(file).suffix != '.safetensors'  # safetensors sorts its entries
    try:
        content = load_pickle_safely(file) if ordered else load_file(file)
    except (OSError, SafetensorError) as error:
        raise UserError(f'{file} cannot be read: {error}') from error
    entries = find_state_dict(content, file)
    odd = [k for k, v in entries.items() if v.layout != torch.strided or v.is_quantized or v.is_complex()]
    if odd:
        raise UserError(
            f'{file} holds no plain weights: {listing(**{"sparse, quantized or complex": odd})}'
        )
    meta = content.get('meta') if isinstance(content, dict) else None
    detector = any(key.startswith(DETECTOR) for key in entries)
    if detector:
        entries = {
            key.removeprefix('roi_head.shared_head.') if 'shared_head' in key else key: value
            for key, value in entries.items()
            if key.startswith(('backbone.', 'roi_head.shared_head.'))
        }
    return Published(entries, meta if isinstance(meta, Mapping) else {}, detector, ordered)


def find_state_dict(content: object, file: str | Path) -> dict[str, Tensor]:
    """Return the named tensors of a file's content, without the prefix of ``DataParallel``.

    Raises:
        UserError: There are none, or not only tensors.
    """
    for name in STATE_DICTS:
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            content = content[name]
            break
    if not isinstance(content, dict) or not content:
        raise UserError(f'{file} holds no state_dict (named tensors)')
    others = [str(k) for k, v in content.items() if not (isinstance(k, str) and isinstance(v, Tensor))]
    if others:
        raise UserError(f'{file} holds no state_dict: {listing(**{"that are no tensors": others})}')
    prefix = 'module.' if all(key.startswith('module.') for key in content) else ''
    return {key.removeprefix(prefix): value for key, value in content.items()}


def stated_inputs(meta: Mapping[str, Any]) -> tuple[Preprocessing, Conventions] | None:
    """Return the preprocessing that a checkpoint states, or None.

    Checkpoints of the suite state it in words (``inputs``); those of MMDetection and mmpretrain in the text
    of their config (``cfg``), as a ``data_preprocessor`` or an older ``img_norm_cfg``.
    """
    if isinstance(meta.get('inputs'), str):
        calls = _calls(f'({meta["inputs"]})')
        try:
            return Preprocessing(**calls['Preprocessing']), Conventions(**calls['Conventions'])
        except (KeyError, TypeError, ValueError):
            return None
    if not isinstance(meta.get('cfg'), str):
        return None
    for name, to_rgb in (('data_preprocessor', ('bgr_to_rgb', 'to_rgb')), ('img_norm_cfg', ('to_rgb',))):
        fields = _assigned(meta['cfg'], name)
        try:
            order = 'rgb' if any(fields[key] for key in to_rgb if key in fields) else 'bgr'
            return Preprocessing(order, tuple(fields['mean']), tuple(fields['std'])), Conventions()
        except (KeyError, TypeError, ValueError):
            continue
    return None


def _literals(call: ast.Call) -> dict[str, Any]:
    """Return the keyword arguments of a call that are literals."""
    fields = {}
    for keyword in call.keywords:
        try:
            fields[keyword.arg or ''] = ast.literal_eval(keyword.value)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            continue
    return fields


def _parsed(text: str) -> list[ast.AST]:
    try:
        return [*ast.walk(ast.parse(text))] if len(text) < 1_000_000 else []
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return []


def _calls(text: str) -> dict[str, dict[str, Any]]:
    """Return the calls in a text by the name of the callee."""
    return {
        node.func.id: _literals(node)
        for node in _parsed(text)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }


def _assigned(text: str, name: str) -> dict[str, Any]:
    """Return the arguments of the first ``name = dict(...)`` in a text, as a statement or an argument."""
    for node in _parsed(text):
        if isinstance(node, ast.keyword) and node.arg == name:
            value: ast.AST = node.value
        elif isinstance(node, ast.Assign) and any(ast.unparse(t) == name for t in node.targets):
            value = node.value
        else:
            continue
        if isinstance(value, ast.Call) and 'mean' in (fields := _literals(value)):
            return fields
    return {}
