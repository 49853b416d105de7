"""Weights files of the suite: a safetensors file with a classifier's entries and a `WeightsInfo`.

A weights file holds a whole classification network's ``state_dict`` under the suite's names, with a
`WeightsInfo` in its metadata. ``tools/weights.py`` makes such files from the published ones.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from backbones.base import Classifier, family_of
from backbones.spec import Conventions, Preprocessing, get_arch
from backbones.weights.safe_files import WeightsError, check_file

METADATA_KEY = 'compactdet'


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """The training of weights.

    Attributes:
        data: Name of the data set.
        recipe: Recipe in one line, or None if unknown.
        top1: Validation accuracy in percent as the publisher states it, or None.
        top5: The same for top-5.
        size: Side of the test images in pixels, or None for 224.
    """

    data: str
    recipe: str | None = None
    top1: float | None = None
    top5: float | None = None
    size: int | None = None

    def __post_init__(self) -> None:
        _check_texts(data=self.data, recipe=self.recipe or '')
        for accuracy in (self.top1, self.top5):
            if accuracy is not None and not 0 <= accuracy <= 100:
                raise WeightsError(f'top1={self.top1}, top5={self.top5}: percent, from 0 to 100')
        if self.size is not None and not (type(self.size) is int and 1 <= self.size <= 4096):
            raise WeightsError(f'size={self.size!r}: pixels per side, from 1 to 4096')


@dataclass(frozen=True, kw_only=True)
class WeightsInfo:
    """Metadata of the weights of a network.

    Attributes:
        arch: Name of the network.
        pretraining: Their training.
        preprocessing: Preprocessing of the images.
        conventions: Conventions of the framework of the training.
        source: Their source, in one line.
        source_sha256: SHA-256 of the file from which they were converted.
        licence: SPDX name, or None if unknown.
    """

    arch: str
    pretraining: Pretraining
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    conventions: Conventions = field(default_factory=Conventions)
    source: str
    source_sha256: str | None = None
    licence: str | None = None

    def __post_init__(self) -> None:
        _check_texts(
            arch=self.arch,
            source=self.source,
            source_sha256=self.source_sha256 or '',
            licence=self.licence or '',
        )

    @classmethod
    def from_json(cls, text: str) -> WeightsInfo:
        """Return the inverse of ``json.dumps(asdict(info))``.

        Raises:
            ValueError, TypeError, KeyError: It is not JSON, or a field is not valid.
        """
        fields = json.loads(text)
        return cls(
            **fields
            | dict(
                pretraining=Pretraining(**fields['pretraining']),
                preprocessing=Preprocessing(**fields['preprocessing']),
                conventions=Conventions(**fields['conventions']),
            )
        )


def _check_texts(**texts: object) -> None:
    """Raise WeightsError for control characters in texts, which a terminal would execute.

    Raises:
        WeightsError: A text contains one.
    """
    for name, text in texts.items():
        if not (isinstance(text, str) and text.isprintable()):
            raise WeightsError(f'{name}={text!r}: a line of printable text')


def is_counter(key: str) -> bool:
    """Return True if an entry only counts updates of BN, which inference does not use."""
    return key.endswith('.num_batches_tracked')


def save_weights(path: str | Path, state_dict: Mapping[str, Tensor], info: WeightsInfo) -> None:
    """Write a weights file atomically; the same input gives the same bytes.

    Raises:
        WeightsError: The file cannot be written.
    """
    path = Path(os.path.realpath(path))  # keep a symbolic link
    tensors = {
        k: v.detach().cpu().clone(memory_format=torch.contiguous_format) for k, v in state_dict.items()
    }
    data = safetensors.torch.save(tensors, {METADATA_KEY: json.dumps(asdict(info), sort_keys=True)})
    temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open('wb') as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise WeightsError(f'cannot write {path}: {error.strerror or error}') from error
    finally:
        with contextlib.suppress(OSError):  # the parent may not be a folder; then nothing was written
            temporary.unlink(missing_ok=True)


def read_info(path: str | Path) -> WeightsInfo:
    """Read the metadata of a weights file from its header.

    Raises:
        WeightsError: See ``read_weights``.
    """
    return _read(path, tensors=False)[1]


def read_weights(path: str | Path) -> tuple[dict[str, Tensor], WeightsInfo]:
    """Read the entries and the metadata of a weights file.

    Raises:
        WeightsError: The file is missing, truncated, not safetensors or not a weights file of the suite.
    """
    return _read(path, tensors=True)


def _read(path: str | Path, *, tensors: bool) -> tuple[dict[str, Tensor], WeightsInfo]:
    head = b''
    check_file(path)
    try:
        with Path(path).open('rb') as opened:
            head = opened.read(9)
        with safe_open(path, framework='pt') as file:
            metadata = file.metadata() or {}
            state_dict = {key: file.get_tensor(key) for key in file.keys()} if tensors else {}  # noqa: SIM118
    except OSError as error:
        raise WeightsError(f'cannot read {path}: {error.strerror or error}') from error
    except SafetensorError as error:
        raise WeightsError(_why_unreadable(path, head, error)) from error
    if METADATA_KEY not in metadata:
        raise WeightsError(
            f'{path} does not say what it is (no {METADATA_KEY!r} in its metadata); make a file that does '
            f"from the authors' one: {convert_command()}"
        )
    try:
        info = WeightsInfo.from_json(metadata[METADATA_KEY])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise WeightsError(f'{path}: its metadata does not fit this version: {error}') from error
    return state_dict, info


def _why_unreadable(path: str | Path, head: bytes, error: Exception) -> str:
    if head.startswith((b'PK\x03\x04', b'\x80')):
        return f'{path} is a PyTorch file, not safetensors; convert it: {convert_command(path)}'
    if head[8:] == b'{':
        return f'{path} is truncated or damaged ({error}); fetch or make it again'
    return f'{path} is not a safetensors file ({error})'


def convert_command(
    file: str | Path = 'FILE', arch: str = 'NAME', out: str | Path = 'OUT.safetensors'
) -> str:
    """Return the command that converts a published file."""
    command = ['python', 'tools/weights.py', 'convert', str(file), '--arch', arch, '--out', str(out)]
    return f'`{shlex.join(command)}`'


@functools.lru_cache(maxsize=64)
def classifier_shapes(
    arch: str, num_classes: int | None = None, sparsity: str = 'masked'
) -> Mapping[str, Tensor]:
    """Return the entries of a network with its classifier on the meta device; ``arch`` is a name.

    Raises:
        UnknownArchError: There is no such network.
    """
    with torch.device('meta'):
        conventions = {} if sparsity == 'masked' else {'sparsity': sparsity}
        return Classifier(arch, num_classes, conventions=conventions).state_dict()


def num_classes_of(state_dict: Mapping[str, Tensor], arch: str) -> int | None:
    """Return the number of classes of a network's entries; None for those of a backbone.

    The classifier's entries are those whose shape depends on the number of classes.

    Raises:
        UnknownArchError: There is no such network.
    """
    some, more = _head_shapes(arch, 2), _head_shapes(arch, 3)
    theirs = [state_dict[k] for k in some if some[k] != more[k] and k in state_dict]
    # An empty tensor may have any number of rows.
    return next((len(v) for v in theirs if v.dim() and v.numel()), None)


@functools.cache
def _head_shapes(arch: str, num_classes: int) -> dict[str, torch.Size]:
    row = get_arch(arch)
    with torch.device('meta'):
        head = family_of(row).make_head(row, num_classes, Conventions())
    return {f'head.{key}': value.shape for key, value in head.state_dict().items()}


IMAGENET = 'ImageNet (ILSVRC 2012)'
