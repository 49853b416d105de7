"""Preprocessing and conventions that torchvision and timm state for their published files, by file name."""

import contextlib
import functools
import importlib
from collections.abc import Callable
from urllib.parse import urlsplit

from backbones import Arch, Conventions, Preprocessing
from backbones.libraries.adapter import LIBRARIES, AdaptedArch, describe_weights, rgb_preprocessing
from compactdet.weights.formats import TENSORFLOW, Format


def published_facts(arch: Arch, fmt: Format, file_name: str) -> tuple[Preprocessing, Conventions]:
    """Return preprocessing and conventions of a published file.

    Those of the library's metadata if it lists the file, otherwise those of the format. timm's ``tf_``
    weights are TensorFlow's; an adapted network has their padding and epsilon in its own layers.
    """
    library = fmt.source.partition("'")[0]
    preprocessing, conventions = fmt.preprocessing, fmt.conventions_of(arch)
    if library in READERS:
        with contextlib.suppress(ImportError):  # an optional library that is not installed
            preprocessing = READERS[library]().get(file_name, preprocessing)
        if file_name.startswith('tf_') and not isinstance(arch, AdaptedArch):
            conventions = TENSORFLOW
    return preprocessing, conventions


@functools.cache
def _torchvision() -> dict[str, Preprocessing]:
    models = importlib.import_module('torchvision.models')
    return {
        _file_name(weights.url): describe_weights(name, weights)
        for name in LIBRARIES['torchvision'].names()
        for weights in models.get_model_weights(name)
    }


@functools.cache
def _timm() -> dict[str, Preprocessing]:
    timm = importlib.import_module('timm')
    found = {}
    for name in timm.list_pretrained():
        config = timm.models.get_pretrained_cfg(name)
        for file in (_file_name(config.url or ''), f'{_file_name(config.hf_hub_id or "")}.safetensors'):
            found[file] = rgb_preprocessing(config.mean, config.std)
    return found


def _file_name(url: str) -> str:
    return urlsplit(url).path.rpartition('/')[2]


READERS: dict[str, Callable[[], dict[str, Preprocessing]]] = {'torchvision': _torchvision, 'timm': _timm}
