"""Published weights files -> this suite's weights files.

A format is a row of ``FORMATS``: how to recognise it, whose networks it holds, the name of each of its
layers in this suite, and what its weights were trained with. Every entry of a file must be used and every
entry of the network be there with its shape; a file that does not fit is refused with the list of what
does not.
"""

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from backbones import Arch, Conventions, Preprocessing, build_classifier, get_arch, list_archs
from backbones.spec import UnknownArchError
from backbones.weights import (
    Pretraining,
    WeightsError,
    WeightsInfo,
    file_sha256,
    is_counter,
    listing,
    load_pickle_safely,
    misfits,
    save_weights,
)
from bench.errors import UserError

IMAGENET = 'ImageNet (ILSVRC 2012)'

# Layers of an ME module: the authors' names and ours.
ME_MODULE = {
    'compress': 'reduce.conv',
    'bn_compress': 'reduce.bn',
    'depthwise': 'depthwise.conv',
    'bn_depthwise': 'depthwise.bn',
    'expand': 'expand.conv',
    'bn_expand': 'expand.bn',
    's_merge': 'merge.conv',
    's_bn_merge': 'merge.bn',
    's_conv': 'evolve.conv',
    's_bn_conv': 'evolve.bn',
    's_evolve': 'match.conv',
    's_bn_evolve': 'match.bn',
}


def menet_layers(arch: Arch) -> dict[str, str]:
    """Every layer of a MENet: ``{the authors' name: ours}``."""
    layers = {'features.init.conv': 'stem.0.conv', 'features.init.bn': 'stem.0.bn'}
    for number, stage in enumerate(arch.stages, 1):
        for i in range(stage.depth):
            for theirs, ours in ME_MODULE.items():
                layers[f'features.stage_{number}_{i + 1}.{theirs}'] = f'stage{stage.stride}.{i}.{ours}'
    return layers | {'classifier': 'head.fc'}


def keras_mobilenet_layers(arch: Arch) -> dict[str, str]:
    """Every layer of a MobileNet: ``{Keras' name: ours}``; Keras counts the blocks from 1 to 13."""
    units = [f'stage{stage.stride}.{i}' for stage in arch.stages for i in range(stage.depth)]
    blocks = {'features.conv1': 'stem'}
    for number, unit in enumerate(units, 1):
        blocks[f'features.conv_dw_{number}'] = f'{unit}.depthwise'
        blocks[f'features.conv_pw_{number}'] = f'{unit}.pointwise'
    layers = {
        f'{theirs}.{leaf}': f'{ours}.{leaf}' for theirs, ours in blocks.items() for leaf in ('conv', 'bn')
    }
    return layers | {'fc': 'head.fc'}


@dataclass(frozen=True, kw_only=True)
class Format:
    """A published file format.

    Attributes:
        family: The registered class that builds its networks.
        marker: Regular expression for the beginning of entries that only this format has.
        layers: Every layer of a network: ``{their name: ours}``.
        source: Where such weights come from, in a line.
        recipe: How they were trained, where it is known.
        preprocessing: What they were trained with.
        conventions: The same.
    """

    family: str
    marker: str
    layers: Callable[[Arch], dict[str, str]]
    source: str
    recipe: str | None = None
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    conventions: Conventions = field(default_factory=Conventions)


FORMATS = {
    "the MENet authors' PyTorch files": Format(
        family='MENet',
        marker=r'features\.stage_\d_\d\.s_merge\.',
        layers=menet_layers,
        source="the MENet authors' format (clavichord93/MENet, arXiv:1803.09127)",
        recipe='as published: SGD, 120 epochs, batch 256, rate 0.1, divided by 10 each 30, decay 4e-5',
    ),
    # Keras left out TensorFlow's class 0, the background; a classifier of 1001 classes is refused.
    "Keras' MobileNet as a PyTorch file": Format(
        family='MobileNet',
        marker=r'features\.conv_dw_\d+\.conv\.',
        layers=keras_mobilenet_layers,
        source="Keras' MobileNet v1 (TensorFlow), converted to PyTorch (arXiv:1704.04861)",
        preprocessing=Preprocessing('rgb', (127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
        conventions=Conventions(padding='same', activation='relu6', bn_eps=1e-3),
    ),
}

# Top-1 and top-5 as published, by the file's sha256: a format does not prove who trained the weights.
PUBLISHED_ACCURACY = {
    # 108-MENet-8x1-group-3.pth.tar
    '4dacc47de3d5ae6eefc7a93e5e6b1dbd59d5bb9dc49ae320f947ace5a226eb94': (56.08, 79.24),
}


def convert(
    file: str | Path, arch_name: str, *, top1: float | None = None, top5: float | None = None
) -> tuple[dict[str, Tensor], WeightsInfo]:
    """Reads a published file as the weights of a network, under this suite's names.

    Args:
        file: A PyTorch file in one of ``FORMATS``; no code in it is executed.
        arch_name: The network it holds.
        top1: ImageNet validation accuracy in per cent as published, where this module does not know it.
        top5: The same for top-5.

    Raises:
        UserError: The file cannot be read, is in no known format, or does not fit the network.
    """
    try:
        arch = get_arch(arch_name)
        theirs = find_state_dict(load_pickle_safely(file), file)
    except (WeightsError, UnknownArchError) as error:
        raise UserError(str(error)) from error
    name, fmt = find_format(theirs, file)
    if arch.family != fmt.family:
        raise UserError(f'{file} is one of {name}, so holds a {fmt.family}; {arch.name} is a {arch.family}')
    state_dict, problems = fit(theirs, arch, fmt)
    if problems:
        fits = [
            n
            for n in list_archs()
            if get_arch(n).family == fmt.family and not fit(theirs, get_arch(n), fmt)[1]
        ]
        hint = f'; it fits {", ".join(fits)}' if fits else ''
        raise UserError(f'{file} does not fit {arch.name}: {problems}{hint}')
    sha256 = file_sha256(file)
    known = PUBLISHED_ACCURACY.get(sha256, (None, None))
    try:
        pretraining = Pretraining(
            data=IMAGENET, recipe=fmt.recipe, top1=top1 or known[0], top5=top5 or known[1]
        )
    except WeightsError as error:
        raise UserError(str(error)) from error
    info = WeightsInfo(
        arch=arch.name,
        pretraining=pretraining,
        preprocessing=fmt.preprocessing,
        conventions=fmt.conventions,
        source=f'{fmt.source}, file {Path(file).name}',
        source_sha256=sha256,
    )
    return state_dict, info


def convert_file(
    file: str | Path,
    arch_name: str,
    out: str | Path,
    *,
    top1: float | None = None,
    top5: float | None = None,
) -> WeightsInfo:
    """Converts a published file and writes the result.

    Raises:
        UserError: As for ``convert``; or the result cannot be written.
    """
    state_dict, info = convert(file, arch_name, top1=top1, top5=top5)
    if Path(out).exists() and Path(out).samefile(file):
        raise UserError(f'--out {out} is the file to convert; give it another name')
    try:
        save_weights(out, state_dict, info)
    except WeightsError as error:
        raise UserError(str(error)) from error
    return info


def find_state_dict(content: object, file: str | Path) -> dict[str, Tensor]:
    """The named tensors in what a PyTorch file held, without ``DataParallel``'s prefix.

    Raises:
        UserError: There are none, or something else is among them.
    """
    if isinstance(content, dict) and isinstance(content.get('state_dict'), dict):
        content = content['state_dict']
    if not isinstance(content, dict) or not content:
        raise UserError(f'{file} holds no state_dict (named tensors)')
    others = [str(k) for k, v in content.items() if not (isinstance(k, str) and isinstance(v, Tensor))]
    if others:
        raise UserError(f'{file} holds no state_dict: {listing(**{"that are no tensors": others})}')
    prefix = 'module.' if all(key.startswith('module.') for key in content) else ''
    return {key.removeprefix(prefix): value for key, value in content.items()}


def find_format(theirs: dict[str, Tensor], file: str | Path) -> tuple[str, Format]:
    """The format of a file, by its marker.

    Raises:
        UserError: It is in none that is known.
    """
    for name, fmt in FORMATS.items():
        if any(re.match(fmt.marker, key) for key in theirs):
            return name, fmt
    first = ', '.join([*theirs][:3])
    raise UserError(
        f'{file} is in no known format (its entries: {first}, ...); known: {"; ".join(FORMATS)}'
    )


@functools.cache
def _entries(arch_name: str) -> dict[str, Tensor]:
    """Names and shapes of a classifier's entries."""
    with torch.device('meta'):
        return build_classifier(arch_name).state_dict()


def fit(theirs: dict[str, Tensor], arch: Arch, fmt: Format) -> tuple[dict[str, Tensor], str]:
    """A file's entries under this suite's names, and what does not fit (empty if all does)."""
    layers = fmt.layers(arch)
    state_dict: dict[str, Tensor] = {}
    unused = []
    own = _entries(arch.name)
    for key, value in theirs.items():
        layer, _, leaf = key.rpartition('.')
        ours = f'{layers.get(layer)}.{leaf}'
        if ours in own:
            state_dict[ours] = value
        else:
            unused.append(key)
    names = {ours: layer for layer, ours in layers.items()}
    missing = []
    for key in own:
        if key not in state_dict and not is_counter(key):
            layer, _, leaf = key.rpartition('.')
            missing.append(f'{names[layer]}.{leaf}')
    return state_dict, listing(missing=missing, unused=unused, misshapen=misfits(own, state_dict))
