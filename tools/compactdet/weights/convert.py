"""Convert published weights files to weights files of the suite.

Files are in one of ``FORMATS``. Every entry of a file must be used, and every entry of the network must
exist with its shape; otherwise the file is not converted and the message lists the differences.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from backbones import Arch, Conventions, Preprocessing, get_arch, list_archs
from backbones.libraries.adapter import ALIASES, AdaptedArch
from backbones.networks.shufflenetv2 import RAW_BGR
from backbones.spec import UnknownArchError
from backbones.weights import (
    Pretraining,
    WeightsError,
    WeightsInfo,
    classifier_shapes,
    file_sha256,
    is_counter,
    listing,
    misfits,
    num_classes_of,
    save_weights,
)
from compactdet.errors import UserError
from compactdet.weights.formats import FORMATS, HALVES, NOT_STATED, Format
from compactdet.weights.layer_names import own_layers
from compactdet.weights.library_formats import library_format
from compactdet.weights.published_file import Published, read_published, stated_inputs

# Preprocessing by the names of `convert --images-as`; x is the value of a pixel, 0 to 255.
IMAGES_AS = {
    'imagenet': Preprocessing(),  # RGB, mean and standard deviation of the data set
    'halves': HALVES,  # RGB, x / 127.5 - 1
    'raw-bgr': RAW_BGR,  # BGR, x
}
# Published top-1 and top-5 by the SHA-256 of the file: a format does not identify the weights.
PUBLISHED_ACCURACY = {
    # 108-MENet-8x1-group-3.pth.tar
    '4dacc47de3d5ae6eefc7a93e5e6b1dbd59d5bb9dc49ae320f947ace5a226eb94': (56.08, 79.24),
}
OWN_DETECTOR = Format(
    families=(),
    marker=r'backbone\.stem\.',
    layers=lambda arch: {
        (f'backbone.{layer}' if layer.startswith('stem') else layer): layer for layer in own_layers(arch)
    },
    source='a detector of this suite',
    prepare=lambda theirs, arch: {
        key if key.startswith('backbone.stem.') else key.removeprefix('backbone.'): value
        for key, value in theirs.items()
        if not key.startswith('backbone.taps.')
    },
)


def convert(
    file: str | Path,
    arch_name: str,
    *,
    top1: float | None = None,
    top5: float | None = None,
    data: str | None = None,
    licence: str | None = None,
    preprocessing: Preprocessing | None = None,
    conventions: Conventions | None = None,
) -> tuple[dict[str, Tensor], WeightsInfo]:
    """Read a published file as the weights of a network, under the suite's names.

    The classifier may have any number of classes. The backbone of a detector has none.

    Args:
        file: A PyTorch file in one of ``FORMATS``, or the state dict of an adapted network as its library
            saves it (also as safetensors); no code in it is executed.
        arch_name: Name of its network.
        top1: Published validation accuracy in percent, if this module does not contain it.
        top5: The same for top-5.
        data: Data set of the training, if the format does not imply it.
        licence: SPDX name.
        preprocessing: Preprocessing of its images, if it differs from that of the format.
        conventions: Conventions of its network, if they differ from those of the format.

    Raises:
        UserError: The file cannot be read, has no known format, or does not match the network.
    """
    try:
        arch = get_arch(arch_name)
        published = read_published(file)
        _, fmt = find_format(published, arch, file)
        state_dict, problems = fit(published, arch, fmt)
        if problems:
            fits = _fitting(published, fmt)
            hint = f'; it fits {", ".join(fits)}' if fits else ''
            raise UserError(f'{file} does not fit {arch.name}: {problems}{hint}')
        trunk_only = fmt.trunk_only or published.detector
        stated = stated_inputs(published.meta)
        if published.detector and not (preprocessing or stated):
            raise UserError(
                f'{file} is a detector that does not say how its network saw images; say it: --images-as'
            )
        preprocessing = preprocessing or (stated[0] if stated else fmt.preprocessing)
        if fmt.source == OWN_DETECTOR.source and stated:
            fmt = replace(fmt, conventions=replace(stated[1], sparsity=fmt.conventions.sparsity))
        sha256 = file_sha256(file)
        known = PUBLISHED_ACCURACY.get(sha256, (None, None))
        as_published = not published.detector and num_classes_of(state_dict, arch.name) == arch.num_classes
        pretraining = Pretraining(
            data=data or (fmt.data if as_published or fmt.trunk_only else NOT_STATED),
            recipe=fmt.recipe if as_published else None,
            top1=top1 or known[0],
            top5=top5 or known[1],
        )
    except (WeightsError, UnknownArchError) as error:
        raise UserError(str(error)) from error
    trunk = ', trunk of a detector' if published.detector else ''
    info = WeightsInfo(
        arch=arch.name,
        pretraining=pretraining,
        preprocessing=preprocessing,
        conventions=conventions or fmt.conventions_of(arch),
        source=f'{fmt.source}{trunk}, file {Path(file).name}',
        source_sha256=sha256,
        licence=licence,
    )
    if trunk_only:
        state_dict = {key: value for key, value in state_dict.items() if not key.startswith('head.')}
    return state_dict, info


def convert_file(file: str | Path, arch_name: str, out: str | Path, **stated: object) -> WeightsInfo:
    """Convert a published file and write the result; ``stated`` are keywords of ``convert``.

    Raises:
        UserError: See ``convert``; or the result cannot be written.
    """
    state_dict, info = convert(file, arch_name, **stated)  # type: ignore[arg-type]
    if Path(out).exists() and Path(out).samefile(file):
        raise UserError(f'--out {out} is the file to convert; give it another name')
    try:
        save_weights(out, state_dict, info)
    except WeightsError as error:
        raise UserError(str(error)) from error
    return info


def find_format(published: Published, arch: Arch, file: str | Path) -> tuple[str, Format]:
    """Return the format of a file for a network, by its marker.

    Raises:
        UserError: It has no known format, or that of another family.
    """
    theirs = published.entries
    if any(re.match(OWN_DETECTOR.marker, key) for key in theirs):
        converted = any(key.endswith(('lgc.index', 'sfr.index')) for key in theirs)
        form = Conventions(sparsity='converted' if converted else 'masked')
        return "this suite's detectors", replace(OWN_DETECTOR, conventions=form)
    if isinstance(arch, AdaptedArch):
        return library_format(arch, theirs)
    known = [(name, f) for name, f in FORMATS.items() if any(re.match(f.marker, key) for key in theirs)]
    for name, fmt in known:
        if arch.family in fmt.families:
            return name, fmt
    if known:
        name, fmt = known[0]
        holds = ' or '.join(fmt.families)
        raise UserError(f'{file} is one of {name}, so holds a {holds}; {arch.name} is a {arch.family}')
    first = ', '.join([*theirs][:3])
    names = '; '.join(name for name, fmt in FORMATS.items() if arch.family in fmt.families) or 'none'
    raise UserError(
        f'{file} is in no known format of a {arch.family} (its entries: {first}, ...); known: {names}'
    )


def _fitting(published: Published, fmt: Format) -> list[str]:
    """Return the networks whose entries match a file."""
    fits = []
    for name in list_archs():
        if name in ALIASES:  # a network of a library, whose row is measured
            continue
        arch = get_arch(name)
        try:
            if arch.family in fmt.families and not fit(published, arch, fmt)[1]:
                fits.append(name)
        except UserError:
            continue
    return fits


def fit(published: Published, arch: Arch, fmt: Format) -> tuple[dict[str, Tensor], str]:
    """Return the entries of a file under the suite's names, and the differences to the network.

    Raises:
        UserError: The entries cannot be rearranged as the format requires.
    """
    theirs = fmt.prepare(published.entries, arch) if fmt.prepare else published.entries
    sparsity = fmt.conventions_of(arch).sparsity
    own = classifier_shapes(arch.name, sparsity=sparsity)
    if fmt.layers is None:
        if not published.ordered:
            raise UserError(
                f'a safetensors file has lost the order of its entries, which {fmt.source} needs'
            )
        layers = dict(zip(_layers_of(theirs), _layers_of(own), strict=False))
    else:
        layers = fmt.layers(arch)
    state_dict: dict[str, Tensor] = {}
    unused = []
    for key, value in theirs.items():
        layer, _, leaf = key.rpartition('.')
        ours = f'{layers.get(layer)}.{leaf}'
        if ours in own or ours == 'head.index':
            state_dict[ours] = value
        else:
            unused.append(key)
    own = _as_large(own, state_dict, arch, fmt, sparsity)
    for key, value in state_dict.items():  # a 1x1 convolution may be a fully connected layer in the file
        shape = own[key].shape
        if value.shape != shape and _without_ones(value.shape) == _without_ones(shape):
            state_dict[key] = value.reshape(shape)
    missing_there = fmt.finish is not None  # a missing bias may be zero
    misshapen = misfits(own, state_dict)
    if fmt.finish and not misshapen:
        state_dict = fmt.finish(state_dict, arch)
    names = {ours: layer for layer, ours in layers.items()}
    headless = fmt.trunk_only or published.detector
    missing = []
    for key in own:
        if (
            key not in state_dict
            and not is_counter(key)
            and not (headless and key.startswith('head.'))
            and not (missing_there and misshapen)
        ):
            layer, _, leaf = key.rpartition('.')
            missing.append(f'{names.get(layer, layer)}.{leaf}')
    floats = {k: v for k, v in state_dict.items() if own[k].is_floating_point()}
    problems = {
        'missing': missing,
        'unused': unused,
        'misshapen': misshapen,
        'no numbers with a point': [k for k, v in floats.items() if not v.is_floating_point()],
        # a tensor of another shape may be too large to search
        'not finite': [] if misshapen else [k for k, v in floats.items() if not v.isfinite().all()],
    }
    if misshapen:
        return state_dict, listing(**problems)
    return _as_stored(state_dict, own), listing(**problems)


def _as_large(
    own: Mapping[str, Tensor], state_dict: Mapping[str, Tensor], arch: Arch, fmt: Format, sparsity: str
) -> Mapping[str, Tensor]:
    """Return the network's entries with the number of classes, and of classifier inputs, of the file."""
    num_classes = fmt.num_classes or num_classes_of(state_dict, arch.name)
    if num_classes not in (None, arch.num_classes):
        own = classifier_shapes(arch.name, num_classes, sparsity)
    index = state_dict.get('head.index')
    if index is not None:  # CondenseNet's classifier adapts to the loaded weights
        rows = len(own['head.fc.weight'])
        own = {**own, 'head.index': index, 'head.fc.weight': torch.empty(rows, len(index), device='meta')}
    elif 'head.index' in own and 'head.fc.weight' in state_dict:
        own = {k: v for k, v in own.items() if k != 'head.index'} | {
            'head.fc.weight': torch.empty(
                num_classes or arch.num_classes, arch.stages[-1].channels, device='meta'
            )
        }
    return own


def _layers_of(entries: Mapping[str, Tensor]) -> list[str]:
    return [*dict.fromkeys(key.rpartition('.')[0] for key in entries)]


def _without_ones(shape: torch.Size) -> tuple[int, ...]:
    """Return a shape of three or more dimensions without trailing ones."""
    sizes = [*shape]
    while len(sizes) > 2 and sizes[-1] == 1:
        sizes.pop()
    return tuple(sizes)


def _as_stored(state_dict: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the entries in the types of the network: half precision becomes single."""
    return {key: value.to(own[key].dtype) if key in own else value for key, value in state_dict.items()}
