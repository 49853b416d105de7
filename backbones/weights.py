"""How weights enter a network: safetensors files that say what they are, loaded whole or not at all.

A weights file is a whole classification network's ``state_dict`` under this suite's names, with a
``WeightsInfo`` in its metadata. ``init_cfg=dict(type='ClassifierWeights', checkpoint=FILE)`` starts a
trunk or a stage head from it: all keys of that half, or an error that lists what does not fit (MMEngine's
own ``Pretrained`` lets a missing convolution pass in silence). ``PreprocessingCheck`` then refuses a
detector that feeds its images in another way than the weights were trained with.

``tools/weights.py`` makes such files from those that the networks' authors publish.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.model.weight_init import update_init_info
from mmengine.registry import HOOKS, WEIGHT_INITIALIZERS
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from backbones.base import Classifier, CompactBackbone, StageHead
from backbones.safe_files import WeightsError as WeightsError
from backbones.safe_files import check_file as check_file
from backbones.safe_files import file_sha256 as file_sha256
from backbones.safe_files import load_pickle_safely as load_pickle_safely
from backbones.spec import Conventions, Preprocessing, family_of, get_arch

METADATA_KEY = 'compactdet'


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """What weights were trained on.

    Attributes:
        data: Name of the data set.
        recipe: In a line, or None where it is not known.
        top1: Validation accuracy in per cent as the publisher states it, or None.
        top5: The same for top-5.
        size: Pixels a side of what the network got at test, or None for 224.
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
                raise WeightsError(f'top1={self.top1}, top5={self.top5}: per cent, from 0 to 100')
        if self.size is not None and not (type(self.size) is int and 1 <= self.size <= 4096):
            raise WeightsError(f'size={self.size!r}: pixels a side, from 1 to 4096')


@dataclass(frozen=True, kw_only=True)
class WeightsInfo:
    """What travels with a network's weights.

    Attributes:
        arch: Name of the network.
        pretraining: What they were trained on.
        preprocessing: How images were presented.
        conventions: What the network has to compute as the framework that trained it.
        source: Where they come from, in a line.
        source_sha256: Of the file they were converted from.
        licence: SPDX name, or None where it is not known.
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
        """Inverse of ``json.dumps(asdict(info))``.

        Raises:
            ValueError, TypeError, KeyError: It is not JSON, or a field is not as it has to be.
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
    """Sees that what a file says can be shown in a line: a terminal would obey control characters.

    Raises:
        WeightsError: It cannot.
    """
    for name, text in texts.items():
        if not (isinstance(text, str) and text.isprintable()):
            raise WeightsError(f'{name}={text!r}: a line of printable text')


@dataclass(frozen=True)
class LoadedFrom:
    """What a half was initialised from; ``module.loaded_from`` after ``ClassifierWeights``.

    Attributes:
        info: Of the weights file.
        checkpoint: The file.
        sha256: Of the file.
        num_keys: Entries taken: all the half's parameters and BN statistics.
    """

    info: WeightsInfo
    checkpoint: str
    sha256: str
    num_keys: int


def is_counter(key: str) -> bool:
    """Whether an entry only counts BN's updates, which no inference and no fixed momentum reads."""
    return key.endswith('.num_batches_tracked')


def save_weights(path: str | Path, state_dict: Mapping[str, Tensor], info: WeightsInfo) -> None:
    """Writes a weights file: whole or not at all, and the same bytes for the same input.

    Raises:
        WeightsError: The file cannot be written.
    """
    path = Path(os.path.realpath(path))  # a link stays one
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
        with contextlib.suppress(OSError):  # its folder may not be one; then nothing was written
            temporary.unlink(missing_ok=True)


def read_info(path: str | Path) -> WeightsInfo:
    """What a weights file says of itself; reads its header only.

    Raises:
        WeightsError: As for ``read_weights``.
    """
    return _read(path, tensors=False)[1]


def read_weights(path: str | Path) -> tuple[dict[str, Tensor], WeightsInfo]:
    """The entries of a weights file and what it says of itself.

    Raises:
        WeightsError: The file is absent, truncated, not safetensors or not one of this suite's.
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
    """The command that makes a weights file from a published one."""
    return f'`python tools/weights.py convert {file} --arch {arch} --out {out}`'


@functools.lru_cache(maxsize=64)
def classifier_shapes(
    arch: str, num_classes: int | None = None, sparsity: str = 'masked'
) -> Mapping[str, Tensor]:
    """The entries of a network with its classifier, without values; ``arch`` is a name.

    Raises:
        UnknownArchError: No such arch.
    """
    with torch.device('meta'):
        conventions = {} if sparsity == 'masked' else {'sparsity': sparsity}
        return Classifier(arch, num_classes, conventions=conventions).state_dict()


def num_classes_of(state_dict: Mapping[str, Tensor], arch: str) -> int | None:
    """How many classes a network's entries tell apart; None where they are those of a trunk.

    The classifier's entries are those whose shape depends on the number of classes.

    Raises:
        UnknownArchError: No such arch.
    """
    some, more = _head_shapes(arch, 2), _head_shapes(arch, 3)
    theirs = [state_dict[k] for k in some if some[k] != more[k] and k in state_dict]
    # One without numbers may claim any number of rows.
    return next((len(v) for v in theirs if v.dim() and v.numel()), None)


@functools.cache
def _head_shapes(arch: str, num_classes: int) -> dict[str, torch.Size]:
    row = get_arch(arch)
    with torch.device('meta'):
        head = family_of(row).make_head(row, num_classes, Conventions())
    return {f'head.{key}': value.shape for key, value in head.state_dict().items()}


@WEIGHT_INITIALIZERS.register_module()
class ClassifierWeights:
    """Initialises a trunk or a stage head from a classification network's weights file.

    Used as ``init_cfg=dict(type='ClassifierWeights', checkpoint=FILE)`` of each half. Every parameter and
    BN statistic of the half is taken; what the file holds beyond them belongs to the other parts.

    Args:
        checkpoint: A file that ``save_weights`` wrote.
    """

    def __init__(self, checkpoint: str):
        self.checkpoint = checkpoint

    def __call__(self, module: nn.Module) -> None:
        """Loads the half's entries and sets ``module.loaded_from``.

        Raises:
            WeightsError: The file is absent or unreadable, is another arch's, was trained under other
                conventions, or does not hold every entry of the half with its shape.
        """
        if not isinstance(module, CompactBackbone | StageHead):
            raise WeightsError(
                f'ClassifierWeights starts a backbone or StageHead of ours, not {type(module).__name__}'
            )
        arch, path = module.arch, self.checkpoint
        if not path or not Path(path).is_file():
            raise WeightsError(how_to_get(arch.name, arch.family, path))
        state_dict, info = read_weights(path)
        if info.arch != arch.name:
            raise WeightsError(f'{path} holds the weights of {info.arch}; this network is {arch.name}')
        if info.conventions != module.conventions:
            raise WeightsError(
                f'{path} was trained under other conventions: give {type(module).__name__} conventions='
                f'{asdict(info.conventions)} (now {asdict(module.conventions)}), as `--init` does'
            )
        own = module.state_dict()
        wanted = [
            key for key in own if not key.startswith('taps.') and (not is_counter(key) or key in state_dict)
        ]
        missing = [key for key in wanted if key not in state_dict]
        misshapen = misfits(own, {key: state_dict[key] for key in wanted if key in state_dict})
        if missing or misshapen:
            raise WeightsError(f'{path}: {listing(missing=missing, misshapen=misshapen)}')
        module.load_state_dict({key: state_dict[key] for key in wanted}, strict=False)
        module.loaded_from = LoadedFrom(info, str(path), file_sha256(path), len(wanted))
        message = (
            f'{type(module).__name__}: {len(wanted)}/{len(wanted)} entries of {arch.name} from {path} '
            f'(sha256 {module.loaded_from.sha256[:12]})'
        )
        print_log(message, logger='current')
        if hasattr(module, '_params_init_info'):
            update_init_info(module, init_info=message)


def how_to_get(arch: str, family: str, path: str | Path | None) -> str:
    """What to say where a network's weights file is not there."""
    out = path or f'weights/{arch}.safetensors'
    whose = "its library's, or who publishes them" if family == 'AdaptedNetwork' else 'who publishes them'
    return (
        f'{arch} needs its ImageNet weights, but {path or "no file"} is not there; {whose}: '
        f'`python tools/weights.py list {arch}`, which `get` downloads; make it from a file that you have: '
        f'{convert_command(arch=arch, out=out)}; or put it at {out}; or train from '
        'random weights: `--init none` (tools/train.py), or init_cfg=None in the config'
    )


def misfits(own: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> list[str]:
    """Entries of ``theirs`` whose shape is not that in ``own``, each with both shapes."""
    return [
        f'{key} {tuple(value.shape)} instead of {tuple(own[key].shape)}'
        for key, value in theirs.items()
        if value.shape != own[key].shape
    ]


def listing(**problems: list[str]) -> str:
    """One line: of each kind of problem its number and its first five."""
    parts = []
    for kind, items in problems.items():
        if items:
            more = ', ...' if len(items) > 5 else ''
            parts.append(f'{len(items)} entries {kind}: {", ".join(items[:5])}{more}')
    return '; '.join(parts)


@HOOKS.register_module()
class PreprocessingCheck(Hook):
    """Refuses a detector whose images reach its weights otherwise than in their training.

    Before training, validation and test: see ``check_preprocessing``.
    """

    def before_train(self, runner: Any) -> None:
        """Checks the runner's model."""
        check_preprocessing(runner.model)

    before_val = before_test = before_train


def check_preprocessing(model: nn.Module) -> None:
    """Compares a detector's data preprocessor with what the weights of its halves were trained with.

    Raises:
        WeightsError: They differ, or the halves start from different weights.
    """
    detector: Any = model.module if is_model_wrapper(model) else model
    halves = [m for m in detector.modules() if isinstance(m, CompactBackbone | StageHead)]
    sources: list[LoadedFrom | None] = [getattr(half, 'loaded_from', None) for half in halves]
    if len({source and source.sha256 for source in sources}) > 1:
        files = ', '.join(
            f'{type(half).__name__}: {source.checkpoint if source else "random weights"}'
            for half, source in zip(halves, sources, strict=True)
        )
        raise WeightsError(f'parts of the network start from different weights ({files}); give one init')
    if not sources or not sources[0]:
        return
    wanted, given = sources[0].info.preprocessing, preprocessing_of(detector.data_preprocessor)
    numbers = (wanted.mean + wanted.std, given.mean + given.std)
    if wanted.channel_order != given.channel_order or not np.allclose(*numbers, rtol=1e-5, atol=1e-5):
        raise WeightsError(
            f'{sources[0].checkpoint} was trained with {wanted}, but the data_preprocessor gives {given}; '
            f'set its mean, std and bgr_to_rgb={wanted.channel_order == "rgb"} to the former'
        )


def preprocessing_of(data_preprocessor: nn.Module) -> Preprocessing:
    """What MMDetection's data preprocessor makes of BGR images."""
    order = 'rgb' if getattr(data_preprocessor, '_channel_conversion', False) else 'bgr'
    if not getattr(data_preprocessor, '_enable_normalize', False):
        return Preprocessing(order, (0, 0, 0), (1, 1, 1))
    mean, std = (
        tuple(getattr(data_preprocessor, name).flatten().expand(3).tolist()) for name in ('mean', 'std')
    )
    return Preprocessing(order, mean, std)
