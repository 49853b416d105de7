"""Convert published weights files to weights files of the suite.

A file has one of ``FORMATS`` or is that of an adapted network. Every entry of the file must be used, and
every entry of the network must exist with its shape. Otherwise the file is not converted, and the message
lists the differences.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from backbones import Arch, Conventions, Preprocessing, get_arch, list_archs
from backbones.libraries.adapter import AdaptedArch
from backbones.libraries.aliases import ALIASES
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
from compactdet.weights.adapted_formats import adapted_format
from compactdet.weights.formats import FORMATS, MINUS_ONE_TO_ONE, NOT_STATED, Format
from compactdet.weights.layer_names import own_layers
from compactdet.weights.library_facts import published_facts
from compactdet.weights.published_file import PublishedFile, read_published_file, stated_inputs

# Preprocessing by its name in `convert --images-as`; x is the value of a pixel, 0 to 255.
PREPROCESSING_NAMES = {
    'imagenet': Preprocessing(),  # RGB, normalized with ImageNet's mean and standard deviation
    'halves': MINUS_ONE_TO_ONE,  # RGB, x / 127.5 - 1
    'raw-bgr': RAW_BGR,  # BGR, x
}
# Published top-1 and top-5 by the SHA-256 of the file: a format does not identify the weights.
PUBLISHED_ACCURACY = {
    # 108-MENet-8x1-group-3.pth.tar
    '4dacc47de3d5ae6eefc7a93e5e6b1dbd59d5bb9dc49ae320f947ace5a226eb94': (56.08, 79.24),
}
OWN_DETECTOR = Format(
    "this suite's detectors",
    families=(),
    marker=r'backbone\.stem\.',
    layer_names=lambda arch: {
        (f'backbone.{layer}' if layer.startswith('stem') else layer): layer for layer in own_layers(arch)
    },
    source='a detector of this suite',
    before_renaming=lambda published, arch: {
        key if key.startswith('backbone.stem.') else key.removeprefix('backbone.'): value
        for key, value in published.items()
        if not key.startswith('backbone.taps.')
    },
)


@dataclass(frozen=True, kw_only=True)
class PublishedFacts:
    """Facts about published weights that are not in their file.

    Attributes:
        top1: Published validation accuracy in percent, or None.
        top5: The same for top-5.
        data: Data set of the training; None for that of the format.
        licence: SPDX name, or None.
        preprocessing: Preprocessing of the images; None for that of the file or its format.
        conventions: Conventions of the network; None for those of the file or its format.
    """

    top1: float | None = None
    top5: float | None = None
    data: str | None = None
    licence: str | None = None
    preprocessing: Preprocessing | None = None
    conventions: Conventions | None = None


NO_FACTS = PublishedFacts()


def convert(
    file: str | Path, arch_name: str, facts: PublishedFacts = NO_FACTS
) -> tuple[dict[str, Tensor], WeightsInfo]:
    """Read a published file as the weights of a network, under the suite's names.

    The classifier may have any number of classes. The backbone of a detector has no classifier.

    Args:
        file: A PyTorch file in one of ``FORMATS``, or the state dict of an adapted network as its library
            saves it (PyTorch or safetensors). No code in it is executed.
        arch_name: Name of its network.
        facts: Facts that are not in the file.

    Raises:
        UserError: The file cannot be read, has no known format, or does not match the network.
    """
    try:
        arch = get_arch(arch_name)
        published = read_published_file(file)
        try:
            fmt = find_format(published, arch, file)
        except UserError:  # a network inside a model that calls it its backbone
            inner = {key.removeprefix('backbone.'): value for key, value in published.entries.items()}
            if not all(key.startswith('backbone.') for key in published.entries):
                raise
            published = replace(published, entries=inner)
            fmt = find_format(published, arch, file)
        state_dict, problems = match_entries(published, arch, fmt)
        if problems:
            others = _matching_archs(published, fmt)
            hint = f'; it fits {", ".join(others)}' if others else ''
            raise UserError(f'{file} does not fit {arch.name}: {problems}{hint}')
        stated = stated_inputs(published.meta)
        if published.detector and not (facts.preprocessing or stated):
            raise UserError(
                f'{file} is a detector checkpoint that does not state its preprocessing; give --images-as'
            )
        if fmt.source == OWN_DETECTOR.source and stated:
            fmt = replace(fmt, conventions=replace(stated[1], sparsity=fmt.conventions.sparsity))
        sha256 = file_sha256(file)
        known = PUBLISHED_ACCURACY.get(sha256, (None, None))
        as_published = not published.detector and num_classes_of(state_dict, arch.name) == arch.num_classes
        preprocessing, conventions = published_facts(arch, fmt, Path(file).name)
        pretraining = Pretraining(
            data=facts.data or (fmt.data if as_published or fmt.backbone_only else NOT_STATED),
            recipe=fmt.recipe if as_published and sha256 in PUBLISHED_ACCURACY else None,
            top1=facts.top1 or known[0],
            top5=facts.top5 or known[1],
        )
    except (WeightsError, UnknownArchError) as error:
        raise UserError(str(error)) from error
    part = ', backbone of a detector' if published.detector else ''
    part += ', moving average of the weights' if published.averaged else ''
    info = WeightsInfo(
        arch=arch.name,
        pretraining=pretraining,
        preprocessing=facts.preprocessing or (stated[0] if stated else preprocessing),
        conventions=facts.conventions or conventions,
        source=f'{fmt.source}{part}, file {Path(file).name}',
        source_sha256=sha256,
        licence=facts.licence,
    )
    if fmt.backbone_only or published.detector:
        state_dict = {key: value for key, value in state_dict.items() if not key.startswith('head.')}
    return state_dict, info


def convert_file(
    file: str | Path, arch_name: str, out: str | Path, facts: PublishedFacts = NO_FACTS
) -> WeightsInfo:
    """Convert a published file and write the result; see ``convert``.

    Raises:
        UserError: See ``convert``; or the result cannot be written.
    """
    state_dict, info = convert(file, arch_name, facts)
    check_output(out, file)
    try:
        save_weights(out, state_dict, info)
    except WeightsError as error:
        raise UserError(str(error)) from error
    return info


def check_output(out: str | Path, file: str | Path) -> None:
    """Raise UserError if the output file is the input file."""
    if Path(out).exists() and Path(out).samefile(file):
        raise UserError(f'--out {out} is the input file; give another file name')


def find_format(published: PublishedFile, arch: Arch, file: str | Path) -> Format:
    """Return the format of a file for a network, found by its marker.

    Raises:
        UserError: It has no known format, or only one of another family.
    """
    entries = published.entries
    if any(re.match(OWN_DETECTOR.marker, key) for key in entries):
        converted = any(key.endswith(('lgc.index', 'sfr.index')) for key in entries)
        form = Conventions(sparsity='converted' if converted else 'masked')
        return replace(OWN_DETECTOR, conventions=form)
    if isinstance(arch, AdaptedArch):
        return adapted_format(arch, entries)
    found = [fmt for fmt in FORMATS if any(re.match(fmt.marker, key) for key in entries)]
    for fmt in found:
        if arch.family in fmt.families:
            return fmt
    if found:
        families = ' or '.join(found[0].families)
        raise UserError(
            f'{file} has the format of {found[0].name}, of {families}; {arch.name} is a {arch.family}'
        )
    first = ', '.join([*entries][:3])
    names = '; '.join(fmt.name for fmt in FORMATS if arch.family in fmt.families) or 'none'
    raise UserError(
        f'{file} has no known format of {arch.family} (its entries: {first}, ...); known formats: {names}'
    )


def _matching_archs(published: PublishedFile, fmt: Format) -> list[str]:
    """Return the networks of the suite that match a file."""
    names = []
    for name in list_archs():
        if name in ALIASES:  # an adapted network, which is slow to build
            continue
        arch = get_arch(name)
        try:
            if arch.family in fmt.families and not match_entries(published, arch, fmt)[1]:
                names.append(name)
        except UserError:
            continue
    return names


def match_entries(published: PublishedFile, arch: Arch, fmt: Format) -> tuple[dict[str, Tensor], str]:
    """Match the entries of a file with those of a network.

    Returns:
        The entries under the suite's names, and the differences to the network in one line.

    Raises:
        UserError: The entries cannot be changed as the format requires.
    """
    entries = fmt.before_renaming(published.entries, arch) if fmt.before_renaming else published.entries
    sparsity = fmt.conventions_of(arch).sparsity
    own = classifier_shapes(arch.name, sparsity=sparsity)
    if fmt.layer_names is not None:
        layers = fmt.layer_names(arch)
    elif published.ordered:
        layers = dict(zip(_layers_of(entries), _layers_of(own), strict=False))
    else:
        raise UserError(
            f'a safetensors file does not keep the order of the entries, which {fmt.source} needs; convert '
            'the PyTorch file'
        )
    state_dict, unused = _rename(entries, layers, own)
    own = _resize_classifier(own, state_dict, arch, fmt, sparsity)
    for key, value in state_dict.items():  # a 1x1 convolution may be a fully connected layer in the file
        shape = own[key].shape
        if value.shape != shape and _without_ones(value.shape) == _without_ones(shape):
            state_dict[key] = value.reshape(shape)
    misshapen = misfits(own, state_dict)
    missing: list[str] = []
    if fmt.after_renaming and not misshapen:
        state_dict = fmt.after_renaming(state_dict, arch)
    if not (fmt.after_renaming and misshapen):  # it may add missing entries
        no_classifier = not any(key.startswith('head.') for key in state_dict)
        headless = fmt.backbone_only or published.detector or no_classifier
        missing = _missing_entries(own, state_dict, layers, headless)
    floats = {k: v for k, v in state_dict.items() if own[k].is_floating_point()}
    problems = {
        'missing': missing,
        'unused': unused,
        'misshapen': misshapen,
        'not floating-point': [k for k, v in floats.items() if not v.is_floating_point()],
        # not searched if a tensor has another shape: it may be too large
        'not finite': [] if misshapen else [k for k, v in floats.items() if not v.isfinite().all()],
        'negative, which no variance is': [
            k for k, v in floats.items() if k.endswith('running_var') and bool((v < 0).any())
        ],
    }
    if not misshapen:
        state_dict = _cast_to_own_types(state_dict, own)
    return state_dict, listing(**problems)


def _rename(
    entries: Mapping[str, Tensor], layers: Mapping[str, str], own: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], list[str]]:
    """Return the entries under the suite's names, and the published names of unused entries."""
    state_dict: dict[str, Tensor] = {}
    unused = []
    for key, value in entries.items():
        layer, _, leaf = key.rpartition('.')
        ours = f'{layers.get(layer)}.{leaf}'
        if ours in own or ours == 'head.index':
            state_dict[ours] = value
        else:
            unused.append(key)
    return state_dict, unused


def _missing_entries(
    own: Mapping[str, Tensor], state_dict: Mapping[str, Tensor], layers: Mapping[str, str], headless: bool
) -> list[str]:
    """Return the published names of the network's entries that are missing."""
    published_names = {ours: layer for layer, ours in layers.items()}
    missing = []
    for key in own:
        if key not in state_dict and not is_counter(key) and not (headless and key.startswith('head.')):
            layer, _, leaf = key.rpartition('.')
            missing.append(f'{published_names.get(layer, layer)}.{leaf}')
    return missing


def _resize_classifier(
    own: Mapping[str, Tensor], state_dict: Mapping[str, Tensor], arch: Arch, fmt: Format, sparsity: str
) -> Mapping[str, Tensor]:
    """Return the network's entries with the file's numbers of classes and of classifier inputs."""
    num_classes = fmt.num_classes or num_classes_of(state_dict, arch.name)
    if num_classes not in (None, arch.num_classes):
        own = classifier_shapes(arch.name, num_classes, sparsity)
    index = state_dict.get('head.index')
    if index is not None:  # CondenseNet's classifier takes the size of the loaded weights
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
    """Return the names of the layers in the order of their entries."""
    return [*dict.fromkeys(key.rpartition('.')[0] for key in entries)]


def _without_ones(shape: torch.Size) -> tuple[int, ...]:
    """Return a shape without trailing ones, but with at least two dimensions."""
    sizes = [*shape]
    while len(sizes) > 2 and sizes[-1] == 1:
        sizes.pop()
    return tuple(sizes)


def _cast_to_own_types(state_dict: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the entries with the data types of the network, such as single for half precision."""
    return {key: value.to(own[key].dtype) if key in own else value for key, value in state_dict.items()}
