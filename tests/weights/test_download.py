"""tools/weights.py list and get: the catalog of published weights, and downloads from a local server."""

import hashlib
import io
import json
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

from backbones import get_arch, list_archs
from backbones import weights as w
from backbones.libraries.aliases import ALIASES
from compactdet.data import download
from compactdet.errors import UserError
from compactdet.weights import download as weights_download
from compactdet.weights.catalog import (
    CATALOG_FILE,
    PublishedWeights,
    find_weights,
    read_catalog,
    select_weights,
    to_json,
)
from compactdet.weights.formats import FORMATS

SCRIPT = Path(__file__).parents[2] / 'tools/weights.py'
ARCH = 'mobilenetv3_small_1x'


# The catalog


@pytest.fixture(scope='module')
def rows() -> list[PublishedWeights]:
    return [*read_catalog()]


def test_rows_of_the_catalog_are_complete(rows: list[PublishedWeights]) -> None:
    names = [row.name for row in rows]
    assert len(names) == len(set(names)) > 40
    for row in rows:
        assert row.arch in list_archs()
        assert row.source
        assert row.page.startswith('https://')
        assert (row.url is None) != (row.by_hand is None)
        assert row.url is None or row.url.startswith(('https://', 'http://'))
        assert row.sha256 is None or (len(row.sha256) in (8, 64) and int(row.sha256, 16) >= 0)
        assert row.sha1 is None or len(row.sha1) == 40
        assert all(a is None or 30 < a < 100 for a in (row.top1, row.top5))
        assert row.top1 is None or row.top5 is None or row.top1 < row.top5
        if row.arch not in ALIASES:  # an adapted network, which needs no format
            assert any(get_arch(row.arch).family in fmt.families for fmt in FORMATS)


def test_torchvision_rows_equal_its_metadata(rows: list[PublishedWeights]) -> None:
    weights = torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V2
    row = next(row for row in rows if row.name == 'mobilenetv2_1x@torchvision.IMAGENET1K_V2')
    assert (row.url, row.top1) == (weights.url, weights.meta['_metrics']['ImageNet-1K']['acc@1'])
    assert row.sha256 == '7ebf99e0'  # mobilenet_v2-7ebf99e0.pth


def test_pytorchcv_rows_have_its_hashes(rows: list[PublishedWeights]) -> None:
    store = pytest.importorskip('pytorchcv.models.common.model_store')
    _, _, sha1, tag = store.get_model_metainfo('menet228_12x1_g3')
    row = next(row for row in rows if row.name == 'menet_228_12x1_g3@pytorchcv.menet228_12x1_g3')
    assert row.sha1 == sha1
    assert row.url == f'{store.imgclsmob_repo_url}/releases/download/{tag}/{row.file}.zip'


def test_menet_accuracies_are_those_of_the_paper(rows: list[PublishedWeights]) -> None:
    stated = {row.arch: row.top1 for row in rows if row.publisher == 'authors' and 'menet_' in row.arch}
    assert stated['menet_108_8x1_g3'] == 56.08
    assert len(stated) == 6


def test_an_absent_library_is_not_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    for library in ('timm', 'pytorchcv', 'mmpretrain'):
        monkeypatch.setitem(sys.modules, library, None)
        monkeypatch.setitem(sys.modules, f'{library}.models', None)
    from compactdet.weights import catalog as module

    module._pytorchcv_table.cache_clear()
    module._mmpretrain_models.cache_clear()
    assert {row.publisher.partition('.')[0] for row in read_catalog()} == {'authors', 'torchvision'}


def test_list(run_tool: Callable, tmp_path: Path) -> None:
    status, out, err = run_tool('weights', 'list', 'menet_108*', '--format', 'json', '--dir', tmp_path)
    assert (status, err) == (0, '')
    authors = json.loads(out)[0]
    assert authors['how'] == "by hand: in the authors' repository"
    assert (authors['licence'], authors['size'], authors['here']) == ('not stated', 2738300, None)
    assert authors['sha256'].startswith('4dacc47d')
    status, out, _ = run_tool('weights', 'list', '*@torchvision*', '--dir', tmp_path)
    assert status == 0
    line = next(line for line in out.splitlines() if 'mobilenetv2_1x@torchvision.IMAGENET1K_V2' in line)
    assert line.split()[1:] == ['72.15', '90.82', 'BSD-3-Clause', '7ebf99e0', 'download']
    status, out, _ = run_tool('weights', 'list', 'nothing', '--format', 'json')
    assert (status, json.loads(out)) == (0, [])


def test_find_and_select_by_name(rows: list[PublishedWeights], run_tool: Callable) -> None:
    assert find_weights(rows, 'ghostnet_1x').publisher == 'authors'
    first = find_weights(rows, 'menet_108_8x1_g3')
    assert first.url or all(row.url is None for row in select_weights(rows, 'menet_108_8x1_g3'))
    status, _, err = run_tool('weights', 'get', 'ghostnet_9x')
    assert (status, err.count('\n')) == (1, 1)
    assert "no published weights are known for 'ghostnet_9x'" in err


def test_error_for_a_file_that_must_be_downloaded_manually(run_tool: Callable, tmp_path: Path) -> None:
    status, _, err = run_tool('weights', 'get', 'shufflenetv2_1x@authors', '--out', tmp_path / 'new')
    assert status == 1
    for words in ('OneDrive', 'https://1drv.ms/', 'weights.py convert FILE --arch shufflenetv2_1x --out'):
        assert words in err
    assert not (tmp_path / 'new').exists()


# Downloads


class Handler(BaseHTTPRequestHandler):
    """Serve the server's file at ``/KIND/NAME``; KIND selects a failure."""

    def log_message(self, *args: Any) -> None:
        """Print nothing."""

    def do_GET(self) -> None:
        server: Any = self.server
        kind, wanted = self.path.split('/')[1], self.headers.get('Range')
        server.seen.append(wanted)
        body = server.body if kind != 'other' else bytes(len(server.body))
        start = int(wanted.split('=')[1].rstrip('-')) if wanted else 0
        if kind == 'missing':
            self.send_error(404)
            return
        self.send_response(206 if start else 200)
        self.send_header('Content-Length', str(len(body) - start))
        if start:
            self.send_header('Content-Range', f'bytes {start}-{len(body) - 1}/{len(body)}')
        self.end_headers()
        short = kind == 'short' and len(server.seen) == 1
        self.wfile.write(body[start : len(body) // 2] if short else body[start:])
        self.close_connection = True


@pytest.fixture(scope='module')
def published() -> bytes:
    torch.manual_seed(0)
    buffer = io.BytesIO()
    torch.save(torchvision.models.mobilenet_v3_small().state_dict(), buffer)
    return buffer.getvalue()


@pytest.fixture
def server(published: bytes) -> Iterator[Any]:
    with ThreadingHTTPServer(('127.0.0.1', 0), Handler) as server:
        server.handle_error = lambda *_: None  # a client may close the connection
        server.seen, server.body = [], published
        thread = threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download.time, 'sleep', lambda _: None)


@pytest.fixture
def known(server: Any, published: bytes, tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a list with one row for the server's file."""

    def write(kind: str = 'good', **fields: Any) -> Path:
        row = {
            'arch': ARCH,
            'publisher': 'lab',
            'url': f'http://127.0.0.1:{server.server_port}/{kind}/small.pth',
            'file': 'small.pth',
            'licence': 'MIT',
            'top1': 67.7,
            'sha256': hashlib.sha256(published).hexdigest(),
            'size': len(server.body),
        }
        (tmp_path / 'known.json').write_text(json.dumps([row | fields]))
        return tmp_path / 'known.json'

    return write


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob('*') if path.is_file())


def test_get_downloads_verifies_and_converts(known: Callable, published: bytes, tmp_path: Path) -> None:
    """Run the command as a user does; compare its hash with that of `sha256sum`."""
    command = [sys.executable, SCRIPT, 'get', ARCH, '--known', known(), '--out', tmp_path / 'weights']
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    path = tmp_path / 'weights' / f'{ARCH}.safetensors'
    first, second = done.stdout.splitlines()
    assert first == f'{path}: {ARCH}@lab'
    sha256 = subprocess.run(['sha256sum', path], capture_output=True, text=True, check=True).stdout.split()[
        0
    ]
    original = hashlib.sha256(published).hexdigest()
    assert second == f'sha256 {sha256} (downloaded file: {original})'
    assert files(tmp_path / 'weights') == [f'{ARCH}.safetensors']
    info = w.read_info(path)
    assert (info.licence, info.pretraining.top1, info.source_sha256) == ('MIT', 67.7, original)


def test_downloaded_weights_are_listed_as_here(known: Callable, run_tool: Callable, tmp_path: Path) -> None:
    path = known(sha256=None)
    arguments = ['--known', path, '--out', tmp_path / 'weights', '--keep']
    assert run_tool('weights', 'get', ARCH, *arguments)[0] == 0
    assert files(tmp_path / 'weights') == ['downloads/small.pth', f'{ARCH}.safetensors']
    row = to_json(next(read_catalog(path)), tmp_path / 'weights')
    assert row['here'] == str(tmp_path / 'weights' / f'{ARCH}.safetensors')
    assert row['sha256'] == w.file_sha256(
        tmp_path / 'weights/downloads/small.pth'
    )  # recorded after the download
    assert row['here_sha256'] == w.file_sha256(row['here'])


@pytest.mark.usefixtures('quick')
def test_an_interrupted_download_is_resumed(
    known: Callable, run_tool: Callable, server: Any, tmp_path: Path
) -> None:
    assert run_tool('weights', 'get', ARCH, '--known', known('short'), '--out', tmp_path / 'w')[0] == 0
    assert server.seen == [None, f'bytes={len(server.body) // 2}-']


def test_first_digits_of_a_hash_are_verified(known: Callable, run_tool: Callable, tmp_path: Path) -> None:
    digits = json.loads(known().read_text())[0]['sha256'][:8]
    assert run_tool('weights', 'get', ARCH, '--known', known(sha256=digits), '--out', tmp_path)[0] == 0


@pytest.mark.usefixtures('quick')
@pytest.mark.parametrize(
    ('kind', 'fields', 'words'),
    [
        ('missing', {}, 'HTTP 404'),
        ('other', {}, 'sent another file: its sha256 is '),
        ('good', {'sha256': '00000000'}, 'published is 00000000'),
        ('good', {'size': 17}, 'the published one has 17'),
        ('good', {'arch': 'mobilenetv3_large_1x'}, 'does not fit mobilenetv3_large_1x'),
        ('good', {'arch': 'menet_108_8x1_g3'}, 'of MobileNetV3; menet_108_8x1_g3 is a MENet'),
    ],
)
def test_a_failed_download_leaves_no_weights_file(
    known: Callable, run_tool: Callable, tmp_path: Path, kind: str, fields: dict, words: str
) -> None:
    path = known(kind, **fields)
    arch = fields.get('arch', ARCH)
    status, _, err = run_tool('weights', 'get', f'{arch}@lab', '--known', path, '--out', tmp_path / 'w')
    assert status == 1
    assert words in err
    assert err.startswith('error: ')
    assert err.count('\n') == 1
    assert [name for name in files(tmp_path / 'w') if name.endswith('.safetensors')] == []


def zipped(server: Any, members: dict[str, bytes]) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w', zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    server.body = buffer.getvalue()


def test_a_zip_archive(
    known: Callable, run_tool: Callable, server: Any, published: bytes, tmp_path: Path
) -> None:
    zipped(server, {'small.pth': published})
    sha1 = hashlib.sha1(published).hexdigest()
    path = known(sha256=None, sha1=sha1)
    assert run_tool('weights', 'get', ARCH, '--known', path, '--out', tmp_path / 'w')[0] == 0
    assert files(tmp_path / 'w') == [f'{ARCH}.safetensors']


@pytest.mark.parametrize(
    ('members', 'words'),
    [
        ({'a': b'1', 'b': b'2'}, 'does not contain exactly one file'),
        ({'../../evil': b'1'}, 'does not contain the published file: its SHA-1 is '),
        ({'bomb': bytes(3_000_000)}, 'does not contain exactly one file of at most 2000000 bytes'),
        (None, 'is damaged or not a zip archive'),
    ],
)
def test_invalid_archives(
    known: Callable,
    run_tool: Callable,
    server: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    members: dict | None,
    words: str,
) -> None:
    monkeypatch.setattr(weights_download, 'MAX_BYTES', 2_000_000)
    if members:
        zipped(server, members)
    else:
        server.body = b'PK\x03\x04 truncated'
    path = known(sha256=None, sha1='0' * 40)
    status, _, err = run_tool('weights', 'get', ARCH, '--known', path, '--out', tmp_path / 'w')
    assert (status, err.count('\n')) == (1, 1)
    assert words in err
    assert not (tmp_path.parent / 'evil').exists()
    assert [name for name in files(tmp_path / 'w') if not name.endswith('small.pth')] == []


@pytest.mark.parametrize('text', ['{}', '[1]', '[{"arch": "x"}]', '[{"arck": "x"}]', 'no'])
def test_an_invalid_list_is_a_user_error(run_tool: Callable, tmp_path: Path, text: str) -> None:
    (tmp_path / 'known.json').write_text(text)
    status, _, err = run_tool('weights', 'list', '--known', tmp_path / 'known.json')
    assert (status, err.count('\n')) == (1, 1)
    assert 'known.json: ' in err


def test_catalog_file_has_only_known_fields() -> None:
    table = json.loads(CATALOG_FILE.read_text())
    fields = set(PublishedWeights.__dataclass_fields__)
    assert all(set(row) <= fields for row in table['authors'])
    with pytest.raises(UserError, match='no published weights are known'):
        find_weights([], 'x')
