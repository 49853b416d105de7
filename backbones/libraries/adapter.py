"""Any classification network of torchvision, timm or pytorchcv as a backbone: ``timm:regnetx_002``.

``get_arch('LIBRARY:NAME')`` builds the network on the meta device, records its forward pass, and measures
where its stages end (`backbones.libraries.graphs`). Stem, stages and classifier keep the library's layers
and parameter names, with the suite's prefix (``stage8.layer2.0.conv1.weight``), so that the library's
weights can be used (``adapted_entries``). Some networks also have plain names: ``ALIASES``.

timm and pytorchcv are optional: ``pip install 'compactdet[timm]'``, ``'compactdet[pytorchcv]'``.

Deviations from the libraries: no stochastic depth; batch normalization trains with PyTorch's momentum of
0.1, as in the suite's networks (torchvision's MNASNet has 0.0003, MobileNetV3 0.01: after a short training,
the running statistics would still be the initial ones); an average pool over the whole map of the native
image size pools the whole map of any size; no auxiliary classifiers (GoogLeNet). Weights are initialized as
in the suite's networks, except what the libraries set otherwise (layer scales, position tables, filters).
Map sizes are the library's: for odd images some networks round down; the sides that a network needs are
measured too (``size_divisor``), and detectors pad to them.

Before its first use, the parts of a network are compared with the library's code on random weights
(`backbones.libraries.proof`); a network whose code cannot be recorded exactly is refused.
"""

from __future__ import annotations

import copy
import difflib
import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from mmdet.registry import MODELS
from torch import fx, nn

from backbones.base import CompactBackbone, native_stride
from backbones.libraries.aliases import ALIASES
from backbones.libraries.graphs import Dissection
from backbones.libraries.proof import check_parts, randomized, size_divisor
from backbones.libraries.tracing import GraphError
from backbones.libraries.unstride import unstride
from backbones.spec import Arch, Conventions, Preprocessing, Stage, UnknownArchError, register_library

FAMILY = 'AdaptedNetwork'
BN_MOMENTUM = 0.1  # PyTorch's, as in the suite's own networks
HALVES = Preprocessing('rgb', (127.5, 127.5, 127.5), (127.5, 127.5, 127.5))


@dataclass(frozen=True)
class Library:
    """Functions to use a library.

    Attributes:
        names: Returns the names of its classification networks; raises ImportError if it is not installed.
        build: Builds a network by name, with a number of classes or, for None, its own.
        describe: Returns the side of the network's native image, its number of classes, and the
            preprocessing of the library's weights.
    """

    names: Callable[[], list[str]]
    build: Callable[[str, int | None], nn.Module]
    describe: Callable[[str, nn.Module], tuple[int, int, Preprocessing]]


def _torchvision() -> Any:
    return importlib.import_module('torchvision.models')


def _build_torchvision(name: str, num_classes: int | None) -> nn.Module:
    # these two initialize slowly, with a warning
    options = {'init_weights': False} if name in ('googlenet', 'inception_v3') else {}
    return _torchvision().get_model(name, weights=None, num_classes=num_classes or 1000, **options)


def _describe_torchvision(name: str, network: nn.Module) -> tuple[int, int, Preprocessing]:
    size = 299 if name == 'inception_v3' else 224
    weights = getattr(_torchvision().get_model_weights(name), 'DEFAULT', None)
    return size, 1000, describe_weights(name, weights) if weights else Preprocessing()


def describe_weights(name: str, weights: Any) -> Preprocessing:
    """Return the preprocessing of weights of a network of torchvision, a member of its ``WeightsEnum``."""
    if name in ('googlenet', 'inception_v3'):
        return HALVES  # the weights are TensorFlow's; torchvision transforms the image inside
    transforms = weights.transforms()
    return rgb_preprocessing(transforms.mean, transforms.std)


def rgb_preprocessing(mean: Any, std: Any) -> Preprocessing:
    """Return the preprocessing for a library's mean and standard deviation, three numbers each, of pixels
    from 0 to 1.
    """
    mean, std = (tuple(round(255 * value, 3) for value in part) for part in (mean, std))
    return Preprocessing('rgb', mean, std)


def _build_timm(name: str, num_classes: int | None) -> nn.Module:
    options = {} if num_classes is None else {'num_classes': num_classes}
    return importlib.import_module('timm').create_model(name, pretrained=False, **options)


def _describe_timm(name: str, network: Any) -> tuple[int, int, Preprocessing]:
    config = network.default_cfg
    preprocessing = rgb_preprocessing(config['mean'], config['std'])
    return config['input_size'][-1], network.num_classes, preprocessing


def _build_pytorchcv(name: str, num_classes: int | None) -> nn.Module:
    options = {} if num_classes is None else {'num_classes': num_classes}
    return importlib.import_module('pytorchcv.model_provider').get_model(name, **options)


def _describe_pytorchcv(name: str, network: Any) -> tuple[int, int, Preprocessing]:
    return network.in_size[0], network.num_classes, Preprocessing()


LIBRARIES = {
    'torchvision': Library(
        names=lambda: _torchvision().list_models(module=_torchvision()),
        build=_build_torchvision,
        describe=_describe_torchvision,
    ),
    'timm': Library(
        names=lambda: importlib.import_module('timm').list_models(),
        build=_build_timm,
        describe=_describe_timm,
    ),
    'pytorchcv': Library(
        names=lambda: [*importlib.import_module('pytorchcv.model_provider')._models],
        build=_build_pytorchcv,
        describe=_describe_pytorchcv,
    ),
}


@dataclass(frozen=True, kw_only=True)
class AdaptedArch(Arch):
    """A measured row.

    Attributes:
        source: Library and name of the network: ``'timm:regnetx_002'``.
    """

    source: str


def _library(source: str) -> tuple[Library, str]:
    """Return the library, and the name of the network in it.

    Raises:
        UnknownArchError: The library is not installed, or has no such network.
    """
    key, _, name = source.partition(':')
    library = LIBRARIES[key]
    try:
        names = library.names()
    except ImportError as error:
        raise UnknownArchError(
            f"arch {source!r} needs {key}, which is not installed: pip install 'compactdet[{key}]'"
        ) from error
    if name.partition('.')[0] not in names:  # names of timm may end with a tag of weights
        near = difflib.get_close_matches(name, names, n=4, cutoff=0.5)
        hint = f'near: {", ".join(f"{key}:{n}" for n in near)}' if near else f'{key} lists its own'
        raise UnknownArchError(f'unknown arch {source!r}; {hint}')
    return library, name


@functools.lru_cache(maxsize=8)
def _on_meta(source: str, num_classes: int | None) -> nn.Module:
    """Build a library's network on the meta device."""
    library, name = _library(source)
    try:
        with torch.device('meta'):
            return library.build(name, num_classes).eval()
    except (NotImplementedError, RuntimeError):  # its constructor reads a value
        return copy.deepcopy(_with_values(source, num_classes)).to('meta')


@functools.lru_cache(maxsize=1)
def _with_values(source: str, num_classes: int | None) -> nn.Module:
    """Build a library's network with its initial values, always the same; the caller's random state is
    kept.
    """
    library, name = _library(source)
    with torch.random.fork_rng(devices=[]), torch.device('cpu'):
        torch.manual_seed(0)
        return library.build(name, num_classes).eval()


@functools.lru_cache(maxsize=8)
def _dissect(source: str) -> Dissection:
    network = _on_meta(source, None)
    library, name = _library(source)
    try:
        return Dissection(network, library.describe(name, network)[0])
    except GraphError as error:
        raise UnknownArchError(f'{source} cannot be a backbone: {error}') from error


@functools.cache
def prove(source: str) -> None:
    """Compare the parts of a network with the library's code, once in a process.

    Raises:
        UnknownArchError: They compute different logits.
    """
    dissection = _dissect(source)
    network = dissection.network if _is_plain(dissection.network) else _with_values(source, None)
    try:
        check_parts(dissection, randomized(network))
    except GraphError as error:
        raise UnknownArchError(f'{source} cannot be a backbone: {error}') from error


@functools.cache
def measure(source: str) -> AdaptedArch:
    """Return the measured row of a network of a library.

    Raises:
        UnknownArchError: There is no such library or network, or the network has no stages.
    """
    dissection, (library, name) = _dissect(source), _library(source)
    size, num_classes, preprocessing = library.describe(name, dissection.network)
    stem, *stages = dissection.cuts
    keys = [key for i in range(len(stages) + 2) for key in dissection.part(i).state_dict()]
    shared = sorted({key for key in keys if keys.count(key) > 1})
    if shared:
        raise UnknownArchError(f'{source} cannot be a backbone: two of its parts share {shared[0]}')
    return AdaptedArch(
        name=source,
        family=FAMILY,
        source=source,
        paper=source.replace(':', ', '),
        stem_channels=stem.channels,
        stem_stride=stem.stride,
        stages=tuple(Stage(cut.stride, cut.channels) for cut in stages),
        split_strides=tuple(cut.stride for cut in dissection.cuts if cut.is_one_map),
        input_size=size,
        size_divisor=size_divisor(dissection),
        num_classes=num_classes,
        preprocessing=preprocessing,
    )


def measure_alias(name: str) -> AdaptedArch:
    """Return the row of a name in ``ALIASES``; for errors see ``measure``."""
    alias = ALIASES[name]
    return replace(measure(alias.source), name=name, **vars(alias))


def adapted_entries(arch: AdaptedArch) -> dict[str, str | None]:
    """Return every entry of the library's state dict with its name in the suite, or None if it is not used.

    Auxiliary classifiers are not used. ``{'layer1.0.conv1.weight': 'stage4.layer1.0.conv1.weight',
    'fc.bias': 'head.fc.bias', ...}``.
    """
    dissection = _dissect(arch.source)
    parts = ['stem', *(f'stage{stage.stride}' for stage in arch.stages), 'head']
    ours = {key: f'{part}.{key}' for i, part in enumerate(parts) for key in dissection.part(i).state_dict()}
    return {key: ours.get(key) for key in dissection.network.state_dict()}


def _part(arch: AdaptedArch, number: int, num_classes: int | None = None) -> fx.GraphModule:
    """Return a part with its own modules, on the default device."""
    part = _library_part(arch, number, num_classes)
    for layer in part.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.momentum = BN_MOMENTUM
    return part


def _library_part(arch: AdaptedArch, number: int, num_classes: int | None) -> fx.GraphModule:
    dissection = _dissect(arch.source)
    if num_classes == arch.num_classes:
        num_classes = None
    part = dissection.part(number, _on_meta(arch.source, num_classes))
    device = torch.get_default_device()
    if device.type == 'meta':
        return copy.deepcopy(part)
    prove(arch.source)
    if _is_plain(part):
        part = copy.deepcopy(part).to_empty(device=device)
        for layer in part.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.reset_running_stats()
        return part
    return copy.deepcopy(dissection.part(number, _with_values(arch.source, num_classes))).to(device)


def _is_plain(part: nn.Module) -> bool:
    """Return True if ``base.initialize`` sets all parameters and buffers of a part."""
    for module in part.modules():
        names = {name for name, _ in module.named_parameters(recurse=False)}
        buffers = any(True for _ in module.buffers(recurse=False))
        if names and not (
            names <= {'weight', 'bias'} and isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d)
        ):
            return False
        if buffers and not isinstance(module, nn.BatchNorm2d):
            return False
    return True


@MODELS.register_module()
class AdaptedNetwork(
    CompactBackbone, archs={name: functools.partial(measure_alias, name) for name in ALIASES}
):
    """A library's network. For arguments and feature maps see ``CompactBackbone``.

    The stem ends with the first feature map; each following stride is a stage.
    """

    row_is_measured = True

    @staticmethod
    def make_stem(arch: AdaptedArch, conventions: Conventions) -> nn.Module:  # type: ignore[override]
        """Return the library's layers up to the first feature map."""
        return _part(arch, 0)

    @staticmethod
    def make_stage(  # type: ignore[override]
        arch: AdaptedArch, stage: Stage, stride: int, conventions: Conventions
    ) -> nn.Module:
        """Return the library's layers from one feature map to the next; with ``stride=1`` each has stride
        1.
        """
        part = _part(arch, 1 + arch.stages.index(stage))
        native = native_stride(arch, stage)
        if stride == native:
            return part
        if stride != 1:
            raise ValueError(f'{arch.name}: stage {stage.stride} has stride {native} or 1, not {stride}')
        try:
            unstride(part, arch.channels_before(stage))
        except GraphError as error:
            raise ValueError(
                f'{arch.name}: stage {stage.stride} cannot keep the size of a map, as Faster R-CNN C4 '
                f'needs: {error}; FPN and RetinaNet can have its maps'
            ) from error
        return part

    @staticmethod
    def make_head(arch: AdaptedArch, num_classes: int, conventions: Conventions) -> nn.Module:  # type: ignore[override]
        """Return the library's layers after the last feature map."""
        return _part(arch, 1 + len(arch.stages), num_classes)


for _name in LIBRARIES:
    register_library(_name, measure)
