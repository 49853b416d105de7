"""Catalog of published weights: publisher, address, accuracy, license.

The authors' files are listed in ``catalog.json``, with the facts that their repositories state. Those of
torchvision, timm, pytorchcv and mmpretrain are read from the tables of the installed library. A library
that is not installed is skipped.
"""

import contextlib
import csv
import functools
import importlib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from backbones import Preprocessing
from backbones.libraries.adapter import rgb_preprocessing
from backbones.libraries.aliases import ALIASES
from backbones.weights import WeightsError, file_sha256, read_info
from compactdet.errors import UserError
from compactdet.files import load_json

CATALOG_FILE = Path(__file__).with_suffix('.json')
# SPDX name by the lower-case name of a license in timm.
SPDX = {
    'apache-2.0': 'Apache-2.0',
    'mit': 'MIT',
    'bsd-3-clause': 'BSD-3-Clause',
    'bsd 3-clause': 'BSD-3-Clause',
}
# Folders of mmpretrain's configs that have networks of the suite.
MMPRETRAIN_FOLDERS = (
    'shufflenet_v1',
    'mobilenet_v2',
    'mobilenet_v3',
    'efficientnet',
    'regnet',
    'resnet',
    'vgg',
)


@dataclass(frozen=True, kw_only=True)
class PublishedWeights:
    """A published weights file.

    Attributes:
        arch: The network.
        publisher: 'authors', or the library and its name of the weights as ``LIBRARY.NAME``.
        file: File name, if known.
        url: Address of the file; None if it must be downloaded manually in a browser.
        page: Address of the page with the link.
        by_hand: Place of a file that must be downloaded manually, for messages.
        licence: SPDX name, or None if none is stated.
        top1: Published validation accuracy in percent, or None.
        top5: The same for top-5.
        sha256: Published SHA-256 of the file, or its first 8 digits; None if not published.
        sha1: SHA-1 of the PyTorch file in a zip archive, if the file is one.
        size: Published size in bytes, or None.
        preprocessing: Preprocessing of the images, if it differs from that of the file format.
        tensorflow: Whether the weights were trained in TensorFlow, with its padding and epsilon.
        source: Source of these facts.
    """

    arch: str
    publisher: str
    page: str
    source: str
    file: str | None = None
    url: str | None = None
    by_hand: str | None = None
    licence: str | None = None
    top1: float | None = None
    top5: float | None = None
    sha256: str | None = None
    sha1: str | None = None
    size: int | None = None
    preprocessing: Preprocessing | None = None
    tensorflow: bool = False

    @property
    def name(self) -> str:
        """Name for ``get``: ``ARCH@PUBLISHER``."""
        return f'{self.arch}@{self.publisher}'


def read_catalog(own: Path | None = None) -> Iterator[PublishedWeights]:
    """Yield the published weights: the user's own list, the authors' files, then those of each library.

    Args:
        own: JSON file with a list of the user's own rows; the keys are the fields of ``PublishedWeights``.

    Raises:
        UserError: ``own`` cannot be read or is not such a list.
    """
    yield from _read_rows(own) if own else []
    table = load_json(CATALOG_FILE)
    yield from (PublishedWeights(**row) for row in table['authors'])
    for library, read in LIBRARY_READERS.items():
        names = {arch: list(library_names) for arch, library_names in table['libraries'][library].items()}
        for arch, alias in ALIASES.items():
            source_library, _, name = alias.source.partition(':')
            if source_library == library:
                names.setdefault(arch, []).append(name)
        with contextlib.suppress(ImportError):
            yield from [
                row
                for arch, library_names in names.items()
                for name in library_names
                for row in read(arch, name)
            ]


def _read_rows(path: Path) -> list[PublishedWeights]:
    content = load_json(path)
    try:
        if not isinstance(content, list):
            raise TypeError('the content is not a list')
        rows = []
        for row in content:
            if row.get('preprocessing'):
                row['preprocessing'] = Preprocessing(**row['preprocessing'])
            rows.append(PublishedWeights(**{'page': row.get('url', ''), 'source': str(path)} | row))
        return rows
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f'{path}: not a list of published weights ({error})') from error


def select_weights(rows: Iterable[PublishedWeights], pattern: str) -> list[PublishedWeights]:
    """Return the rows whose arch, publisher or name matches a shell pattern."""
    return [
        row for row in rows if any(fnmatchcase(n, pattern) for n in (row.arch, row.publisher, row.name))
    ]


def find_weights(rows: Iterable[PublishedWeights], name: str) -> PublishedWeights:
    """Return the row with a name, or the first row of an arch, preferably one with an address.

    Raises:
        UserError: There is no such row.
    """
    manual = None
    for row in rows:
        if row.name == name or (row.arch == name and row.url):
            return row
        if row.arch == name:
            manual = manual or row
    if manual:
        return manual
    raise UserError(
        f'no published weights are known for {name!r}; `python tools/weights.py list` lists all'
    )


def to_json(row: PublishedWeights, folder: Path) -> dict[str, Any]:
    """Return a row for the JSON output.

    ``here`` and ``here_sha256`` are the path and the hash of the weights file in ``folder`` if it was
    converted from this row's file, else None.
    """
    path = folder / f'{row.arch}.safetensors'
    info = None
    with contextlib.suppress(WeightsError):
        info = read_info(path) if path.is_file() else None
    is_here = info is not None and row.file is not None and info.source.endswith(f'file {row.file}')
    return {
        'name': row.name,
        'arch': row.arch,
        'publisher': row.publisher,
        'url': row.url,
        'page': row.page,
        'how': 'download' if row.url else f'by hand: {row.by_hand or "from the page"}',
        'file': row.file,
        'licence': row.licence or 'not stated',
        'top1': row.top1,
        'top5': row.top5,
        'sha256': row.sha256 or (info.source_sha256 if info and is_here else None),
        'sha1': row.sha1,
        'size': row.size,
        'stated_in': row.source,
        'here': str(path) if is_here else None,
        'here_sha256': file_sha256(path) if is_here else None,
    }


# Libraries: each function yields the weights of an arch under the library's name


def _file_name(url: str) -> str:
    return urlsplit(url).path.rpartition('/')[2]


def _sha256_digits(name: str) -> str | None:
    """Return the first 8 digits of the SHA-256, which are in file names of torch.hub and OpenMMLab."""
    match = re.search(r'[-_]([0-9a-f]{8})\.pth$', name)
    return match[1] if match else None


def _torchvision(arch: str, name: str) -> Iterator[PublishedWeights]:
    models = importlib.import_module('torchvision.models')
    for weights in models.get_model_weights(name):
        meta = weights.meta
        metrics = meta.get('_metrics', {}).get('ImageNet-1K', {})
        if len(meta.get('categories') or ()) != 1000 or not metrics:
            continue  # a backbone without a classifier, or not of ImageNet
        yield PublishedWeights(
            arch=arch,
            publisher=f'torchvision.{weights.name}',
            file=_file_name(weights.url),
            url=weights.url,
            page=meta.get('recipe') or 'https://docs.pytorch.org/vision/stable/models.html',
            licence='BSD-3-Clause',
            top1=metrics['acc@1'],
            top5=metrics['acc@5'],
            sha256=_sha256_digits(_file_name(weights.url)),
            source=f'torchvision, {weights}',
        )


def _timm(arch: str, name: str) -> Iterator[PublishedWeights]:
    config = importlib.import_module('timm.models').get_pretrained_cfg(name)
    hub = importlib.import_module('huggingface_hub')
    if config is None or not (config.url or config.hf_hub_id):
        return
    file = importlib.import_module('timm.models._hub').HF_SAFE_WEIGHTS_NAME
    url = config.url or hub.hf_hub_url(config.hf_hub_id, file)
    licence = (config.license or '').lower()
    yield PublishedWeights(
        arch=arch,
        publisher=f'timm.{config.architecture}.{config.tag}'
        if config.tag
        else f'timm.{config.architecture}',
        file=_file_name(url) if config.url else f'{config.hf_hub_id.rpartition("/")[2]}.safetensors',
        url=url,
        page=f'https://huggingface.co/{config.hf_hub_id}' if config.hf_hub_id else url,
        licence=SPDX.get(licence, config.license or None),
        sha256=_sha256_digits(_file_name(url)),
        preprocessing=rgb_preprocessing(config.mean, config.std),
        tensorflow=name.startswith('tf_'),
        source=f'timm, pretrained_cfg of {name}',
    )


@functools.cache
def _pytorchcv_table() -> dict[str, dict[str, str]]:
    table = files('pytorchcv').joinpath('models/common/model_metainfos.csv').read_text(encoding='utf-8')
    return {row['model_name']: row for row in csv.DictReader(table.splitlines())}


def _pytorchcv(arch: str, name: str) -> Iterator[PublishedWeights]:
    row = _pytorchcv_table().get(name, {'checksum': 'NA'})
    if row['checksum'] == 'NA':
        return
    repository = importlib.import_module('pytorchcv.models.common.model_store').imgclsmob_repo_url
    file = f'{name}-{row["error_value"]}-{row["checksum"][:8]}.pth'
    yield PublishedWeights(
        arch=arch,
        publisher=f'pytorchcv.{name}',
        file=file,
        url=f'{repository}/releases/download/{row["repo_release_tag"]}/{file}.zip',
        page=repository,
        licence='MIT',
        top5=round(100 - int(row['error_value']) / 100, 2),
        sha1=row['checksum'],
        source='pytorchcv, model_metainfos.csv',
    )


@functools.cache
def _mmpretrain_models() -> dict[str, dict[str, Any]]:
    models: dict[str, dict[str, Any]] = {}
    root, read = files('mmpretrain').joinpath('.mim'), importlib.import_module('yaml').safe_load
    index = read(root.joinpath('model-index.yml').read_text(encoding='utf-8'))
    for metafile in index['Import']:
        if any(f'/{folder}/' in metafile for folder in MMPRETRAIN_FOLDERS):
            content = read(root.joinpath(metafile).read_text(encoding='utf-8'))
            models |= {model['Name']: model for model in content['Models']}
    return models


def _mmpretrain(arch: str, name: str) -> Iterator[PublishedWeights]:
    model = _mmpretrain_models().get(name)
    if model is None:
        return
    metrics = model['Results'][0]['Metrics']
    yield PublishedWeights(
        arch=arch,
        publisher=f'mmpretrain.{name}',
        file=_file_name(model['Weights']),
        url=model['Weights'],
        page='https://github.com/open-mmlab/mmpretrain',
        licence='Apache-2.0',
        top1=metrics['Top 1 Accuracy'],
        top5=metrics['Top 5 Accuracy'],
        sha256=_sha256_digits(_file_name(model['Weights'])),
        source=f'mmpretrain, metafile of {name}',
    )


LIBRARY_READERS: dict[str, Callable[[str, str], Iterator[PublishedWeights]]] = {
    'torchvision': _torchvision,
    'timm': _timm,
    'pytorchcv': _pytorchcv,
    'mmpretrain': _mmpretrain,
}
