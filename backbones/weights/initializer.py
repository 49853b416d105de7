"""Initialize the two halves of a network in a detector from a weights file.

``init_cfg=dict(type='ClassifierWeights', checkpoint=FILE)`` initializes a backbone or a stage head. All
entries of that half must be in the file with their shapes; otherwise an error lists the differences.
(MMEngine's own ``Pretrained`` ignores a missing convolution.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from mmengine.logging import print_log
from mmengine.model.weight_init import update_init_info
from mmengine.registry import WEIGHT_INITIALIZERS
from torch import Tensor, nn

from backbones.base import CompactBackbone, StageHead
from backbones.weights.file import WeightsInfo, convert_command, is_counter, read_weights
from backbones.weights.safe_files import WeightsError, file_sha256


@dataclass(frozen=True)
class LoadedFrom:
    """Initial weights of a half; ``module.loaded_from`` after ``ClassifierWeights``.

    Attributes:
        info: Metadata of the weights file.
        checkpoint: The file.
        sha256: SHA-256 of the file.
        num_keys: Number of loaded entries: all parameters and BN statistics of the half.
    """

    info: WeightsInfo
    checkpoint: str
    sha256: str
    num_keys: int


@WEIGHT_INITIALIZERS.register_module()
class ClassifierWeights:
    """Initialize a backbone or a stage head from the weights file of a classification network.

    Used as ``init_cfg=dict(type='ClassifierWeights', checkpoint=FILE)`` of each half. Every parameter and
    BN statistic of the half is loaded; other entries of the file belong to the other parts.

    Args:
        checkpoint: A file that ``save_weights`` wrote.
    """

    def __init__(self, checkpoint: str):
        self.checkpoint = checkpoint

    def __call__(self, module: nn.Module) -> None:
        """Load the entries of the half and set ``module.loaded_from``.

        Raises:
            WeightsError: The file is missing or not readable, is of another network, was trained under
                other conventions, or lacks an entry of the half with its shape.
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
    """Return the message for a missing weights file."""
    out = path or f'weights/{arch}.safetensors'
    library = "its library's: `--init library`; " if family == 'AdaptedNetwork' else ''
    return (
        f'{arch} needs its ImageNet weights, but {path or "no file"} is not there; {library}who publishes '
        f'them: `python tools/weights.py list {arch}`, which `get` downloads; make it from a file that you '
        f'have: {convert_command(arch=arch, out=out)}; or put it at {out}; or train from '
        'random weights: `--init none` (tools/train.py), or init_cfg=None in the config'
    )


def misfits(own: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> list[str]:
    """Return the entries of ``theirs`` whose shape differs from that in ``own``, with both shapes."""
    return [
        f'{key} {tuple(value.shape)} instead of {tuple(own[key].shape)}'
        for key, value in theirs.items()
        if value.shape != own[key].shape
    ]


def listing(**problems: list[str]) -> str:
    """Return one line with the number and the first five of each kind of problem."""
    parts = []
    for kind, items in problems.items():
        if items:
            more = ', ...' if len(items) > 5 else ''
            parts.append(f'{len(items)} entries {kind}: {", ".join(items[:5])}{more}')
    return '; '.join(parts)
