"""Published weights files -> this suite's weights files.

What is read is in one of ``FORMATS``. Every entry of a file must be used and every
entry of the network be there with its shape; a file that does not fit is refused with the list of what
does not.
"""

import functools
import re
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from backbones import Arch, build_classifier, get_arch, list_archs
from backbones.adapter import AdaptedArch, adapted_entries
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
from bench.formats import FORMATS, Format

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
        file: A PyTorch file in one of ``FORMATS``, or the state dict of an adapted network as its library
            saves it (also as safetensors); no code in it is executed.
        arch_name: The network it holds.
        top1: ImageNet validation accuracy in per cent as published, where this module does not know it.
        top5: The same for top-5.

    Raises:
        UserError: The file cannot be read, is in no known format, or does not fit the network.
    """
    try:
        arch = get_arch(arch_name)
        content = load_file(file) if is_safetensors(file) else load_pickle_safely(file)
        theirs = find_state_dict(content, file)
    except (WeightsError, UnknownArchError) as error:
        raise UserError(str(error)) from error
    except (OSError, SafetensorError) as error:
        raise UserError(f'{file} cannot be read: {error}') from error
    name, fmt = library_format(arch) if isinstance(arch, AdaptedArch) else find_format(theirs, file)
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
            data=fmt.data, recipe=fmt.recipe, top1=top1 or known[0], top5=top5 or known[1]
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


def is_safetensors(file: str | Path) -> bool:
    """Whether a file's name says that it holds tensors alone."""
    return Path(file).suffix == '.safetensors'


def library_format(arch: AdaptedArch) -> tuple[str, Format]:
    """The format of a network that an adapter took from a library: the library's own state dict."""
    entries = adapted_entries(arch)

    def prepare(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {
            entries.get(key) or key: value
            for key, value in theirs.items()
            if entries.get(key, key) is not None
        }

    layers = {ours.rpartition('.')[0] for ours in entries.values() if ours}
    library, _, name = arch.source.partition(':')
    fmt = Format(
        family=arch.family,
        marker='',
        layers=lambda _: {layer: layer for layer in layers},
        source=f"{library}'s {name}",
        preprocessing=arch.preprocessing,
        prepare=prepare,
    )
    return f"{library}'s files", fmt


@functools.cache
def _entries(arch_name: str) -> dict[str, Tensor]:
    """Names and shapes of a classifier's entries."""
    with torch.device('meta'):
        return build_classifier(arch_name).state_dict()


def fit(theirs: dict[str, Tensor], arch: Arch, fmt: Format) -> tuple[dict[str, Tensor], str]:
    """A file's entries under this suite's names, and what does not fit (empty if all does)."""
    layers = fmt.layers(arch)
    if fmt.prepare:
        theirs = fmt.prepare(theirs)
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
        if (
            key not in state_dict
            and not is_counter(key)
            and not (fmt.trunk_only and key.startswith('head.'))
        ):
            layer, _, leaf = key.rpartition('.')
            missing.append(f'{names.get(layer, layer)}.{leaf}')
    return state_dict, listing(missing=missing, unused=unused, misshapen=misfits(own, state_dict))
