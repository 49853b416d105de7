"""tools/weights.py list and get: the tables of known weights, downloads from a server of this machine."""

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
from backbones.libraries.adapter import ALIASES
from compactdet.data import download
from compactdet.errors import UserError
from compactdet.weights import download as obtain_weights
from compactdet.weights.catalog import KNOWN, KnownWeights, as_json, find, known_weights, select
from compactdet.weights.formats import FORMATS

SCRIPT = Path(__file__).parents[2] / 'tools/weights.py'
ARCH = 'mobilenetv3_small_1x'


# --- the tables ------------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def rows() -> list[KnownWeights]:
    return [*known_weights()]


def test_every_row_is_of_a_network_that_is_here_and_says_where_it_is_from(rows: list[KnownWeights]) -> None:
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
        if row.arch not in ALIASES:  # a library's own, with its own file
            assert any(get_arch(row.arch).family in fmt.families for fmt in FORMATS.values())


def test_torchvisions_rows_are_its_own_metadata(rows: list[KnownWeights]) -> None:
    weights = torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V2
    row = next(row for row in rows if row.name == 'mobilenetv2_1x@torchvision.IMAGENET1K_V2')
    assert (row.url, row.top1) == (weights.url, weights.meta['_metrics']['ImageNet-1K']['acc@1'])
    assert row.sha256 == '7ebf99e0'  # mobilenet_v2-7ebf99e0.pth


def test_pytorchcvs_rows_have_its_hashes(rows: list[KnownWeights]) -> None:
    store = pytest.importorskip('pytorchcv.models.common.model_store')
    _, _, sha1, tag = store.get_model_metainfo('menet228_12x1_g3')
    row = next(row for row in rows if row.name == 'menet_228_12x1_g3@pytorchcv.menet228_12x1_g3')
    assert row.sha1 == sha1
    assert row.url == f'{store.imgclsmob_repo_url}/releases/download/{tag}/{row.file}.zip'


def test_menets_figures_are_the_papers(rows: list[KnownWeights]) -> None:
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
    assert {row.publisher.partition('.')[0] for row in known_weights()} == {'authors', 'torchvision'}


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


def test_names(rows: list[KnownWeights], run_tool: Callable) -> None:
    assert find(rows, 'ghostnet_1x').publisher == 'authors'
    first = find(rows, 'menet_108_8x1_g3')
    assert first.url or all(row.url is None for row in select(rows, 'menet_108_8x1_g3'))
    status, _, err = run_tool('weights', 'get', 'ghostnet_9x')
    assert (status, err.count('\n')) == (1, 1)
    assert "no weights are known for 'ghostnet_9x'" in err


def test_what_only_a_browser_can_download_says_how(run_tool: Callable, tmp_path: Path) -> None:
    status, _, err = run_tool('weights', 'get', 'shufflenetv2_1x@authors', '--out', tmp_path / 'new')
    assert status == 1
    for words in ('OneDrive', 'https://1drv.ms/', 'weights.py convert FILE --arch shufflenetv2_1x --out'):
        assert words in err
    assert not (tmp_path / 'new').exists()


# --- downloads -------------------------------------------------------------------------------------------


class Handler(BaseHTTPRequestHandler):
    """``/KIND/NAME``: serves the server's file well or in one of the ways in which servers fail."""

    def log_message(self, *args: Any) -> None:
        """Says nothing."""

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
        server.handle_error = lambda *_: None  # of a client that hangs up
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
    """Writes a list with one row of the server's file."""

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


def test_get_downloads_checks_and_converts(known: Callable, published: bytes, tmp_path: Path) -> None:
    """As a user does it; `sha256sum` says what the tool said."""
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


def test_what_came_is_listed_as_here(known: Callable, run_tool: Callable, tmp_path: Path) -> None:
    path = known(sha256=None)
    arguments = ['--known', path, '--out', tmp_path / 'weights', '--keep']
    assert run_tool('weights', 'get', ARCH, *arguments)[0] == 0
    assert files(tmp_path / 'weights') == ['downloads/small.pth', f'{ARCH}.safetensors']
    row = as_json(next(known_weights(path)), tmp_path / 'weights')
    assert row['here'] == str(tmp_path / 'weights' / f'{ARCH}.safetensors')
    assert row['sha256'] == w.file_sha256(tmp_path / 'weights/downloads/small.pth')  # noted as it came
    assert row['here_sha256'] == w.file_sha256(row['here'])


@pytest.mark.usefixtures('quick')
def test_a_broken_download_is_gone_on_from(
    known: Callable, run_tool: Callable, server: Any, tmp_path: Path
) -> None:
    assert run_tool('weights', 'get', ARCH, '--known', known('short'), '--out', tmp_path / 'w')[0] == 0
    assert server.seen == [None, f'bytes={len(server.body) // 2}-']


def test_the_first_digits_of_a_hash_are_a_check(
    known: Callable, run_tool: Callable, tmp_path: Path
) -> None:
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
        ('good', {'arch': 'menet_108_8x1_g3'}, 'so holds a MobileNetV3'),
    ],
)
def test_a_wrong_download_leaves_no_weights(
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


def test_a_zipped_file(
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
        ({'a': b'1', 'b': b'2'}, 'does not hold one file'),
        ({'../../evil': b'1'}, 'holds another file: its sha1 is '),
        ({'bomb': bytes(3_000_000)}, 'does not hold one file of at most 2000000 bytes'),
        (None, 'is no whole zip archive'),
    ],
)
def test_bad_archives(
    known: Callable,
    run_tool: Callable,
    server: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    members: dict | None,
    words: str,
) -> None:
    monkeypatch.setattr(obtain_weights, 'LARGEST', 2_000_000)
    if members:
        zipped(server, members)
    else:
        server.body = b'PK\x03\x04 and no more'
    path = known(sha256=None, sha1='0' * 40)
    status, _, err = run_tool('weights', 'get', ARCH, '--known', path, '--out', tmp_path / 'w')
    assert (status, err.count('\n')) == (1, 1)
    assert words in err
    assert not (tmp_path.parent / 'evil').exists()
    assert [name for name in files(tmp_path / 'w') if not name.endswith('small.pth')] == []


@pytest.mark.parametrize('text', ['{}', '[1]', '[{"arch": "x"}]', '[{"arck": "x"}]', 'no'])
def test_a_bad_list_is_one_line(run_tool: Callable, tmp_path: Path, text: str) -> None:
    (tmp_path / 'known.json').write_text(text)
    status, _, err = run_tool('weights', 'list', '--known', tmp_path / 'known.json')
    assert (status, err.count('\n')) == (1, 1)
    assert 'known.json: ' in err


def test_the_table_of_the_authors_is_plain_data() -> None:
    table = json.loads(KNOWN.read_text())
    fields = set(KnownWeights.__dataclass_fields__)
    assert all(set(row) <= fields for row in table['authors'])
    with pytest.raises(UserError, match='no weights are known'):
        find([], 'x')
