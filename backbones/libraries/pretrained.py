"""Weights that a library publishes for its networks: the library downloads and caches them itself."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from backbones import base
from backbones.libraries.adapter import AdaptedArch, adapted_entries, describe_weights, rgb_preprocessing
from backbones.libraries.tracing import in_a_line
from backbones.spec import Arch, Preprocessing, get_arch
from backbones.weights import (
    Pretraining,
    WeightsError,
    WeightsInfo,
    convert_command,
    how_to_get,
    read_info,
    save_weights,
)
from backbones.weights.file import IMAGENET


@dataclass(frozen=True)
class Published:
    """A library's weights of a network.

    Attributes:
        state_dict: All entries, under the library's names.
        name: The library's name of the weights.
        preprocessing: Preprocessing of the images.
        size: Side of the test images in pixels.
        top1: Validation accuracy in percent, or None.
        top5: The same for top-5.
    """

    state_dict: dict[str, Tensor]
    name: str
    preprocessing: Preprocessing
    size: int
    top1: float | None = None
    top5: float | None = None


def _torchvision(name: str, arch: Arch) -> Published:
    models = importlib.import_module('torchvision.models')
    weights = models.get_model_weights(name).DEFAULT
    metrics = weights.meta.get('_metrics', {}).get('ImageNet-1K', {})
    return Published(
        weights.get_state_dict(progress=False, check_hash=True),
        str(weights),
        describe_weights(name, weights),
        weights.transforms().crop_size[0],
        metrics.get('acc@1'),
        metrics.get('acc@5'),
    )


def _timm(name: str, arch: Arch) -> Published:
    network: Any = importlib.import_module('timm').create_model(name, pretrained=True)
    config = network.pretrained_cfg
    label = f'{config["architecture"]}.{config["tag"]}' if config.get('tag') else name
    preprocessing = rgb_preprocessing(config['mean'], config['std'])
    return Published(network.state_dict(), label, preprocessing, config['input_size'][-1])


def _pytorchcv(name: str, arch: Arch) -> Published:
    network = importlib.import_module('pytorchcv.model_provider').get_model(name, pretrained=True)
    return Published(network.state_dict(), name, arch.preprocessing, arch.input_size)


LOADERS: dict[str, Callable[[str, Arch], Published]] = {
    'torchvision': _torchvision,
    'timm': _timm,
    'pytorchcv': _pytorchcv,
}


def library_weights(arch_name: str, folder: str | Path = 'weights') -> Path:
    """Return the weights file of a library's network in a folder; at first use, it is made from the weights
    that the library downloads.

    Raises:
        UnknownArchError: There is no such network.
        WeightsError: The network is of no library, or the library has no weights or cannot download them.
    """
    arch = get_arch(arch_name)
    path = Path(folder) / f'{arch.name}.safetensors'
    if not isinstance(arch, AdaptedArch):
        raise WeightsError(f'{arch.name} is of no library. {how_to_get(arch.name, arch.family, path)}')
    if path.exists():
        if (found := read_info(path).arch) != arch.name:
            raise WeightsError(f'{path} holds the weights of {found}, not of {arch.name}; remove it')
        return path
    library, _, name = arch.source.partition(':')
    try:
        published = LOADERS[library](name, arch)
        names = adapted_entries(arch)
        state_dict = {ours: published.state_dict[their] for their, ours in names.items() if ours}
    except Exception as error:  # the code and the network access of a library may fail in any way
        raise WeightsError(
            f'{library} could not give weights of {name} ({in_a_line(error)}); without a network, download '
            f"the library's file elsewhere and convert it: {convert_command(arch=arch.name, out=path)}"
        ) from error
    info = WeightsInfo(
        arch=arch.name,
        pretraining=Pretraining(
            data=IMAGENET if arch.num_classes == 1000 else 'not stated',
            top1=published.top1,
            top5=published.top5,
            size=published.size,
        ),
        preprocessing=published.preprocessing,
        source=f"{library}'s {published.name}",
    )
    save_weights(path, state_dict, info)
    return path


def build_backbone(
    name: str | Arch,
    out_strides: Sequence[int] = (4, 8, 16, 32),
    pretrained: str | Path | bool | None = None,
    **kwargs: Any,
) -> base.CompactBackbone:
    """Build the backbone of a network; ``kwargs`` are those of ``CompactBackbone``.

    Args:
        name: A name from ``list_archs()``, a ``LIBRARY:NAME``, or a row.
        out_strides: Strides of the maps to return, increasing.
        pretrained: A weights file of the suite, or True for the weights that a library publishes for its
            network (kept in the folder ``weights``). ``backbone.loaded_from.info`` then has the
            preprocessing of the images. None for random weights.

    Raises:
        UnknownArchError: There is no such network.
        ValueError: The network has no map at a stride.
        WeightsError: The weights cannot be read or downloaded, or are of another network.
    """
    if not pretrained:
        return base.build_backbone(name, out_strides, **kwargs)
    path = library_weights(get_arch(name).name) if pretrained is True else Path(pretrained)
    backbone = base.build_backbone(
        name,
        out_strides,
        conventions=read_info(path).conventions,
        init_cfg=dict(type='ClassifierWeights', checkpoint=str(path)),
        **kwargs,
    )
    backbone.init_weights()
    return backbone
