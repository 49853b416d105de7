"""Read published PyTorch and safetensors files: their named tensors and metadata.

No code in a file is executed. A checkpoint may contain a config as text: only literals are read from it.
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

# Keys of the state dict in a file, preferred ones first: published accuracies are of the moving average.
STATE_DICT_KEYS = ('state_dict_ema', 'state_dict', 'model_ema', 'model', 'net')
# Prefixes of all entries, of DataParallel, torch.compile, Lightning and other wrappers.
WRAPPERS = ('module.', '_orig_mod.', 'model.', 'net.')
# Prefixes of entries that only detectors have.
DETECTOR_PREFIXES = ('rpn_head.', 'roi_head.', 'bbox_head.', 'neck.')


@dataclass(frozen=True)
class PublishedFile:
    """Content of a published file.

    Attributes:
        entries: Its named tensors without the prefix of ``DataParallel``; only those of the backbone (and
            the stage head) for a detector.
        meta: Metadata of the checkpoint.
        detector: Whether it is a detector checkpoint.
        ordered: Whether the entries have the order of registration.
        averaged: Whether the weights are the moving average, of a file that names it.
    """

    entries: dict[str, Tensor]
    meta: Mapping[str, Any]
    detector: bool
    ordered: bool
    averaged: bool = False


def read_published_file(file: str | Path) -> PublishedFile:
    """Read a file without executing code from it.

    Raises:
        WeightsError: A PyTorch file cannot be read.
        UserError: A safetensors file cannot be read, or the file does not consist of named tensors.
    """
    check_file(file)
    ordered = Path(file).suffix != '.safetensors'  # safetensors sorts its entries
    try:
        content = load_pickle_safely(file) if ordered else load_file(file)
    except (OSError, SafetensorError) as error:
        raise UserError(f'{file} cannot be read: {error}') from error
    entries = find_state_dict(content, file)
    unsupported = [
        k for k, v in entries.items() if v.layout != torch.strided or v.is_quantized or v.is_complex()
    ]
    if unsupported:
        raise UserError(
            f'{file} has unsupported weights: {listing(**{"sparse, quantized or complex": unsupported})}'
        )
    meta = content.get('meta') if isinstance(content, dict) else None
    detector = any(key.startswith(DETECTOR_PREFIXES) for key in entries)
    if detector:
        entries = {
            key.removeprefix('roi_head.shared_head.') if 'shared_head' in key else key: value
            for key, value in entries.items()
            if key.startswith(('backbone.', 'roi_head.shared_head.'))
        }
    averaged = (state_dict_key(content) or '').endswith('_ema')
    return PublishedFile(entries, meta if isinstance(meta, Mapping) else {}, detector, ordered, averaged)


def state_dict_key(content: object) -> str | None:
    """Return the key of the state dict in a file's content; None if the content is not such a dict."""
    if not isinstance(content, dict):
        return None
    return next((key for key in STATE_DICT_KEYS if isinstance(content.get(key), dict)), None)


def find_state_dict(content: object, file: str | Path) -> dict[str, Tensor]:
    """Return the named tensors of a file's content, without the prefixes of `WRAPPERS`.

    Raises:
        UserError: There are none, or some are not tensors.
    """
    key = state_dict_key(content)
    if key is not None and isinstance(content, dict):
        content = content[key]
    if not isinstance(content, dict) or not content:
        raise UserError(f'{file} contains no state_dict (named tensors)')
    others = [str(k) for k, v in content.items() if not (isinstance(k, str) and isinstance(v, Tensor))]
    if others:
        raise UserError(f'{file} contains no state_dict: {listing(**{"that are not tensors": others})}')
    while prefix := next((p for p in WRAPPERS if all(key.startswith(p) for key in content)), None):
        content = {key.removeprefix(prefix): value for key, value in content.items()}
    return content


def stated_inputs(meta: Mapping[str, Any]) -> tuple[Preprocessing, Conventions] | None:
    """Return the preprocessing and the conventions that a checkpoint states, or None.

    Checkpoints of the suite state both in their metadata (``inputs``). Those of MMDetection and mmpretrain
    state the preprocessing in the text of their config (``cfg``), as ``data_preprocessor`` or the older
    ``img_norm_cfg``.
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
        fields = _assigned_fields(meta['cfg'], name)
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


def _syntax_nodes(text: str) -> list[ast.AST]:
    """Return the syntax nodes of Python code; none if it is invalid or too long."""
    try:
        return [*ast.walk(ast.parse(text))] if len(text) < 1_000_000 else []
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return []


def _calls(text: str) -> dict[str, dict[str, Any]]:
    """Return the literal keyword arguments of the calls in a text, by the name of the callee."""
    return {
        node.func.id: _literals(node)
        for node in _syntax_nodes(text)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }


def _assigned_fields(text: str, name: str) -> dict[str, Any]:
    """Return the arguments of the first ``name = dict(mean=..., ...)`` in a text.

    It may be an assignment or a keyword argument.
    """
    for node in _syntax_nodes(text):
        if isinstance(node, ast.keyword) and node.arg == name:
            value: ast.AST = node.value
        elif isinstance(node, ast.Assign) and any(ast.unparse(t) == name for t in node.targets):
            value = node.value
        else:
            continue
        if isinstance(value, ast.Call) and 'mean' in (fields := _literals(value)):
            return fields
    return {}
