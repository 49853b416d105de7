"""Catalog of published weights: publisher, address, accuracy, license.

The authors' files are listed in ``catalog.json``, as their repositories state them. Those of torchvision,
timm, pytorchcv and mmpretrain are read from the tables of the installed library; a library that is not
installed is skipped.
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
from backbones.libraries.adapter import ALIASES
from backbones.weights import WeightsError, file_sha256, read_info
from compactdet.errors import UserError
from compactdet.files import load_json

KNOWN = Path(__file__).with_suffix('.json')
SPDX = {
    'apache-2.0': 'Apache-2.0',
    'mit': 'MIT',
    'bsd-3-clause': 'BSD-3-Clause',
    'bsd 3-clause': 'BSD-3-Clause',
}


@dataclass(frozen=True, kw_only=True)
class KnownWeights:
    """A published weights file.

    Attributes:
        arch: The network.
        publisher: 'authors', or ``LIBRARY.NAME`` of the weights.
        file: File name, if known.
        url: Address of the file; None if it must be downloaded manually.
        page: Page with the link.
        by_hand: Kind of the page, if only a browser can download from it.
        licence: SPDX name, None if none is stated.
        top1: Validation accuracy in percent as stated, or None.
        top5: The same for top-5.
        sha256: Published SHA-256 of the file, or its first 8 digits.
        sha1: SHA-1 of the PyTorch file in a zip archive.
        size: Published size in bytes.
        preprocessing: Preprocessing of its images, if it differs from that of the file format.
        tensorflow: Whether TensorFlow trained them, with its padding and epsilon.
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


def known_weights(more: Path | None = None) -> Iterator[KnownWeights]:
    """Return all known files: the user's own, the authors', then those of each library, which is imported.

    Args:
        more: JSON file with a list of the user's own rows; fields as in ``KnownWeights``.

    Raises:
        UserError: ``more`` cannot be read or is not such a list.
    """
    yield from _rows(more) if more else []
    table = load_json(KNOWN)
    yield from (KnownWeights(**row) for row in table['authors'])
    for library, read in LIBRARIES.items():
        names = {arch: list(of) for arch, of in table['libraries'][library].items()}
        for arch, alias in ALIASES.items():
            where, _, name = alias.source.partition(':')
            if where == library:
                names.setdefault(arch, []).append(name)
        with contextlib.suppress(ImportError):
            yield from [row for arch, of in names.items() for name in of for row in read(arch, name)]


def _rows(path: Path) -> list[KnownWeights]:
    content = load_json(path)
    try:
        if not isinstance(content, list):
            raise TypeError('it is no list')
        rows = []
        for row in content:
            if row.get('preprocessing'):
                row['preprocessing'] = Preprocessing(**row['preprocessing'])
            rows.append(KnownWeights(**{'page': row.get('url', ''), 'source': str(path)} | row))
        return rows
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f'{path}: no list of weights ({error})') from error


def select(rows: Iterable[KnownWeights], pattern: str) -> list[KnownWeights]:
    """Return the rows whose arch, publisher or name matches a shell pattern."""
    return [
        row for row in rows if any(fnmatchcase(n, pattern) for n in (row.arch, row.publisher, row.name))
    ]


def find(rows: Iterable[KnownWeights], name: str) -> KnownWeights:
    """Return the row of a name; for an arch the first that a program can download.

    Raises:
        UserError: There is no such row.
    """
    by_hand = None
    for row in rows:
        if row.name == name or (row.arch == name and row.url):
            return row
        if row.arch == name:
            by_hand = by_hand or row
    if by_hand:
        return by_hand
    raise UserError(f'no weights are known for {name!r}: `python tools/weights.py list` has all that are')


def as_json(row: KnownWeights, folder: Path) -> dict[str, Any]:
    """Return a row in JSON types, with the license in words and the state of the file in ``folder``."""
    path = folder / f'{row.arch}.safetensors'
    there = None
    with contextlib.suppress(WeightsError):
        there = read_info(path) if path.is_file() else None
    mine = there is not None and row.file is not None and there.source.endswith(f'file {row.file}')
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
        'sha256': row.sha256 or (there.source_sha256 if there and mine else None),
        'sha1': row.sha1,
        'size': row.size,
        'stated_in': row.source,
        'here': str(path) if mine else None,
        'here_sha256': file_sha256(path) if mine else None,
    }


# Libraries


def _named(url: str) -> str:
    return urlsplit(url).path.rpartition('/')[2]


def _sha256_in(name: str) -> str | None:
    """Return the first 8 digits of the SHA-256, which file names of torch.hub and OpenMMLab contain."""
    match = re.search(r'[-_]([0-9a-f]{8})\.pth$', name)
    return match[1] if match else None


def _torchvision(arch: str, name: str) -> Iterator[KnownWeights]:
    models = importlib.import_module('torchvision.models')
    for weights in models.get_model_weights(name):
        meta = weights.meta
        metrics = meta.get('_metrics', {}).get('ImageNet-1K', {})
        if len(meta.get('categories') or ()) != 1000 or not metrics:
            continue  # backbone without a classifier
        yield KnownWeights(
            arch=arch,
            publisher=f'torchvision.{weights.name}',
            file=_named(weights.url),
            url=weights.url,
            page=meta.get('recipe') or 'https://docs.pytorch.org/vision/stable/models.html',
            licence='BSD-3-Clause',
            top1=metrics['acc@1'],
            top5=metrics['acc@5'],
            sha256=_sha256_in(_named(weights.url)),
            source=f'torchvision, {weights}',
        )


def _timm(arch: str, name: str) -> Iterator[KnownWeights]:
    config = importlib.import_module('timm.models').get_pretrained_cfg(name)
    hub = importlib.import_module('huggingface_hub')
    if config is None or not (config.url or config.hf_hub_id):
        return
    file = importlib.import_module('timm.models._hub').HF_SAFE_WEIGHTS_NAME
    url = config.url or hub.hf_hub_url(config.hf_hub_id, file)
    mean, std = (tuple(255 * value for value in part) for part in (config.mean, config.std))
    licence = (config.license or '').lower()
    yield KnownWeights(
        arch=arch,
        publisher=f'timm.{config.architecture}.{config.tag}'
        if config.tag
        else f'timm.{config.architecture}',
        file=_named(url) if config.url else f'{config.hf_hub_id.rpartition("/")[2]}.safetensors',
        url=url,
        page=f'https://huggingface.co/{config.hf_hub_id}' if config.hf_hub_id else url,
        licence=SPDX.get(licence, config.license or None),
        sha256=_sha256_in(_named(url)),
        preprocessing=Preprocessing('rgb', mean, std),
        tensorflow=name.startswith('tf_'),
        source=f'timm, pretrained_cfg of {name}',
    )


@functools.cache
def _pytorchcv_table() -> dict[str, dict[str, str]]:
    table = files('pytorchcv').joinpath('models/common/model_metainfos.csv').read_text(encoding='utf-8')
    return {row['model_name']: row for row in csv.DictReader(table.splitlines())}


def _pytorchcv(arch: str, name: str) -> Iterator[KnownWeights]:
    row = _pytorchcv_table().get(name, {'checksum': 'NA'})
    if row['checksum'] == 'NA':
        return
    repository = importlib.import_module('pytorchcv.models.common.model_store').imgclsmob_repo_url
    file = f'{name}-{row["error_value"]}-{row["checksum"][:8]}.pth'
    yield KnownWeights(
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
    folder, read = files('mmpretrain').joinpath('.mim'), importlib.import_module('yaml').safe_load
    index = read(folder.joinpath('model-index.yml').read_text(encoding='utf-8'))
    for metafile in index['Import']:
        if any(f'/{family}/' in metafile for family in FAMILIES):
            content = read(folder.joinpath(metafile).read_text(encoding='utf-8'))
            models |= {model['Name']: model for model in content['Models']}
    return models


FAMILIES = ('shufflenet_v1', 'mobilenet_v2', 'mobilenet_v3', 'efficientnet', 'regnet', 'resnet', 'vgg')


def _mmpretrain(arch: str, name: str) -> Iterator[KnownWeights]:
    model = _mmpretrain_models().get(name)
    if model is None:
        return
    metrics = model['Results'][0]['Metrics']
    yield KnownWeights(
        arch=arch,
        publisher=f'mmpretrain.{name}',
        file=_named(model['Weights']),
        url=model['Weights'],
        page='https://github.com/open-mmlab/mmpretrain',
        licence='Apache-2.0',
        top1=metrics['Top 1 Accuracy'],
        top5=metrics['Top 5 Accuracy'],
        sha256=_sha256_in(_named(model['Weights'])),
        source=f'mmpretrain, metafile of {name}',
    )


LIBRARIES: dict[str, Callable[[str, str], Iterator[KnownWeights]]] = {
    'torchvision': _torchvision,
    'timm': _timm,
    'pytorchcv': _pytorchcv,
    'mmpretrain': _mmpretrain,
}
