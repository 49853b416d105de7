"""Downloads from a server that does all that servers do, and archives that do all they should not."""

import hashlib
import io
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compactdet.data import archives, download
from compactdet.data.archives import unpacked
from compactdet.data.download import RemoteFile, fetch, need_space
from compactdet.errors import UserError

BODY = np.random.default_rng(0).bytes(3_000_000)
MD5 = f'md5:{hashlib.md5(BODY).hexdigest()}'
SHA256 = f'sha256:{hashlib.sha256(BODY).hexdigest()}'


class Server(ThreadingHTTPServer):
    """Answers by the first part of the path; notes each request as (path, Range)."""

    seen: list[tuple[str, str | None]]
    failing: int  # how often /flaky is still to fail

    def handle_error(self, *args: Any) -> None:
        """Says nothing of a client that hangs up."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *args: Any) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        wanted = self.headers.get('Range')
        self.server.seen.append((self.path, wanted))
        kind, body = self.path.split('/')[1], BODY
        start = int(wanted.split('=')[1].rstrip('-')) if wanted and kind != 'noranges' else 0
        failing = self.server.failing > 0
        self.server.failing -= 1
        if kind == 'missing':
            self.send_error(404)
        elif kind == 'down' or (kind == 'flaky' and failing):
            self.send_error(503)
        elif kind == 'moved':
            self.send_response(302)
            self.send_header('Location', '/good/file')
            self.end_headers()
        elif kind == 'page':
            self.answer(b'<html>please log in</html>', 0, content_type='text/html; charset=utf-8')
        elif kind == 'hidden_page':
            self.answer(b'<!DOCTYPE html><p>please log in', 0)
        elif kind == 'other':
            self.answer(bytes(len(BODY)), 0)
        elif kind == 'full' and start:
            self.send_response(416)
            self.send_header('Content-Range', f'bytes */{len(body)}')
            self.end_headers()
        elif kind == 'cut' or (kind in ('short', 'noranges') and failing):
            # Says how long the body is, and hangs up in its middle.
            self.answer(body, start, send=body[start : start + 1_200_000])
        elif kind == 'stuck':
            self.answer(body, start, send=body[start:1_000_000])
        else:
            self.answer(body, start)

    def answer(
        self, body: bytes, start: int, send: bytes | None = None, content_type: str = 'application/x-tar'
    ) -> None:
        self.send_response(206 if start else 200)
        self.send_header('Content-Type', content_type)
        self.send_header('Content-Length', str(len(body) - start))
        if start:
            self.send_header('Content-Range', f'bytes {start}-{len(body) - 1}/{len(body)}')
        self.end_headers()
        self.wfile.write(body[start:] if send is None else send)
        self.close_connection = True


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(('127.0.0.1', 0), Handler) as server:
        server.seen, server.failing = [], 0
        thread = threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def get(server: Server, tmp_path: Path) -> Callable[..., Path]:
    def run(*kinds: str, **options: Any) -> Path:
        urls = [f'http://127.0.0.1:{server.server_port}/{kind}/file.tar' for kind in kinds]
        options = {'checksum': MD5, 'pause_s': 0, 'timeout_s': 5} | options
        told = {name: options.pop(name) for name in ('progress', 'by_hand') if name in options}
        return fetch(RemoteFile(urls, **options), tmp_path / 'new' / 'file.tar', **told)

    return run


def names(path: Path) -> list[str]:
    return sorted(file.name for file in path.iterdir())


@pytest.mark.parametrize('checksum', [MD5, SHA256, None])
def test_a_good_file(get: Callable, tmp_path: Path, checksum: str | None) -> None:
    told: list[tuple[int, int | None]] = []
    path = get('good', checksum=checksum, size=len(BODY), progress=lambda *now: told.append(now))
    assert path.read_bytes() == BODY
    assert names(path.parent) == ['file.tar']
    assert told[-1] == (len(BODY), len(BODY))
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_a_good_file_is_not_downloaded_twice_and_a_bad_one_is(get: Callable, server: Server) -> None:
    path = get('good')
    assert get('good') == path
    assert len(server.seen) == 1
    path.write_bytes(bytes(len(BODY)))
    get('good')
    assert path.read_bytes() == BODY


def test_what_has_come_is_kept(get: Callable, server: Server) -> None:
    server.failing = 1
    assert get('short').read_bytes() == BODY
    assert server.seen == [('/short/file.tar', None), ('/short/file.tar', 'bytes=1200000-')]


def test_a_server_that_always_hangs_up_gives_all_in_pieces(get: Callable, server: Server) -> None:
    assert get('cut', tries=1).read_bytes() == BODY
    assert [wanted for _, wanted in server.seen] == [None, 'bytes=1200000-', 'bytes=2400000-']


def test_a_later_run_goes_on(get: Callable, server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r'the connection ended after 1000000 of 3000000 bytes \(2 tries\)'):
        get('stuck', tries=2)
    assert names(tmp_path / 'new') == ['.file.tar.part']
    server.seen.clear()
    assert get('good').read_bytes() == BODY
    assert server.seen == [('/good/file.tar', 'bytes=1000000-')]


def test_without_a_checksum_no_pieces_are_joined(get: Callable, server: Server) -> None:
    server.failing = 1
    assert get('short', checksum=None).read_bytes() == BODY
    assert [wanted for _, wanted in server.seen] == [None, None]


def test_a_server_without_ranges(get: Callable, server: Server) -> None:
    server.failing = 1
    assert get('noranges').read_bytes() == BODY
    assert [wanted for _, wanted in server.seen] == [None, 'bytes=1200000-']


@pytest.mark.parametrize('size', [None, len(BODY)])
def test_all_was_there_already(get: Callable, tmp_path: Path, size: int | None) -> None:
    part = tmp_path / 'new' / '.file.tar.part'
    part.parent.mkdir()
    part.write_bytes(BODY)
    assert get('full', size=size).read_bytes() == BODY


def test_a_part_that_does_not_fit_is_begun_anew(get: Callable, server: Server, tmp_path: Path) -> None:
    part = tmp_path / 'new' / '.file.tar.part'
    part.parent.mkdir()
    part.write_bytes(bytes(500))
    assert get('good').read_bytes() == BODY
    assert [wanted for _, wanted in server.seen] == ['bytes=500-', None]
    part.write_bytes(BODY + b'more')
    (tmp_path / 'new/file.tar').unlink()
    assert get('full').read_bytes() == BODY  # 416, then from the start


def test_a_redirect(get: Callable, server: Server) -> None:
    assert get('moved').read_bytes() == BODY
    assert [path for path, _ in server.seen] == ['/moved/file.tar', '/good/file']


def test_errors_that_pass(get: Callable, server: Server) -> None:
    server.failing = 2
    assert get('flaky').read_bytes() == BODY
    assert len(server.seen) == 3


def test_the_next_mirror_is_asked(get: Callable, server: Server) -> None:
    assert get('missing', 'page', 'other', 'good', tries=1).read_bytes() == BODY
    assert len(server.seen) == 4


BAD = {
    'missing': ('HTTP 404 Not Found', 1),
    'down': (r'HTTP 503 Service Unavailable \(2 tries\)', 2),
    'page': ('sent a web page in place of the file', 1),
    'hidden_page': ('sent a web page: its md5 is .*, published is', 1),
    'other': ('sent another file: its md5 is .*, published is', 1),
}


@pytest.mark.parametrize(('kind', 'match', 'requests'), [(k, *v) for k, v in BAD.items()], ids=BAD)
def test_a_wrong_file_is_no_file(
    get: Callable, server: Server, tmp_path: Path, kind: str, match: str, requests: int
) -> None:
    with pytest.raises(
        UserError, match=rf'could not get file\.tar: 127\.0\.0\.1: {match}.*data\.py import'
    ):
        get(kind, tries=2)
    assert names(tmp_path / 'new') == []
    assert len(server.seen) == requests


def test_another_size_is_refused_before_it_is_downloaded(get: Callable, tmp_path: Path) -> None:
    with pytest.raises(UserError, match='has a file of 3000000 bytes, the published one has 19336861798'):
        get('good', size=19_336_861_798)
    assert names(tmp_path / 'new') == []


def test_no_server_and_no_address(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r'127\.0\.0\.1: no connection'):
        fetch(RemoteFile(['http://127.0.0.1:9/x'], tries=1, pause_s=0), tmp_path / 'x')
    with pytest.raises(UserError, match="'file:///etc/hostname' is no http address"):
        fetch(RemoteFile(['file:///etc/hostname']), tmp_path / 'x')
    assert names(tmp_path) == []


def test_a_folder_that_cannot_be_made(get: Callable, tmp_path: Path) -> None:
    (tmp_path / 'new').write_text('')
    with pytest.raises(UserError, match=r"cannot write '.*file\.tar' \(File exists\)"):
        get('good')


def test_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need_space(tmp_path / 'not' / 'there', 1, 'it')
    monkeypatch.setattr(download.shutil, 'disk_usage', lambda _: type('', (), {'free': 2_000_000_000}))
    need_space(tmp_path, 2_000_000_000, 'it')
    with pytest.raises(UserError, match=r'it needs 20\.0 GB in .*, but 2\.0 GB are free; make room'):
        need_space(tmp_path, 20_000_000_000, 'it')


# Archives


def tar(path: Path, files: dict[str, bytes], mode: str = 'w', **member: Any) -> Path:
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in member.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(data))
    return path


def zipped(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


FILES = {'set/a.txt': b'a' * 5000, 'set/b/c.txt': BODY[:70_000]}


@pytest.mark.parametrize('mode', ['w', 'w:gz', 'zip'])
def test_unpacked_whole_and_gone_afterwards(tmp_path: Path, mode: str) -> None:
    archive = zipped(tmp_path / 'x', FILES) if mode == 'zip' else tar(tmp_path / 'x', FILES, mode)
    with unpacked(archive, tmp_path / 'near') as folder:
        assert {
            f'set/{name}': (folder / 'set' / name).read_bytes() for name in ('a.txt', 'b/c.txt')
        } == FILES
    with unpacked(archive, tmp_path / 'near', members=('*/a.txt',)) as folder:
        assert names(folder / 'set') == ['a.txt']
    assert names(tmp_path / 'near') == []
    with (
        pytest.raises(UserError, match='holds none of z: another'),
        unpacked(archive, tmp_path, members=('z',)),
    ):
        pass


@pytest.mark.parametrize('name', ['../out', 'set/../../out', '/tmp/out', 'C:\\out', '..\\out', '\\out'])
@pytest.mark.parametrize('make', [tar, zipped])
def test_nothing_lands_outside(tmp_path: Path, name: str, make: Callable) -> None:
    archive = make(tmp_path / 'x', {'set/a.txt': b'good', name: b'bad'})
    near = tmp_path / 'one' / 'near'
    with pytest.raises(UserError, match=r'refused: .* (leads out of its folder|is an absolute path)'):
        unpacked(archive, near).__enter__()
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob('*'))] == [
        'one',
        'one/near',
        'x',
    ]


@pytest.mark.parametrize('kind', [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    archive = tar(tmp_path / 'x', {'link': b''}, type=kind, linkname='/etc')
    with pytest.raises(UserError, match="'link' is a link or device"):
        unpacked(archive, tmp_path / 'near').__enter__()


def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    info = zipfile.ZipInfo('link')
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / 'x', 'w') as archive:
        archive.writestr(info, '/etc')
    with pytest.raises(UserError, match="'link' is a link"):
        unpacked(tmp_path / 'x', tmp_path / 'near').__enter__()


BROKEN = {
    'cut': lambda data: data[: len(data) // 2],
    'flipped': lambda data: data[:40_000] + bytes([data[40_000] ^ 255]) + data[40_001:],
    'text': lambda _: b'no archive',
    'empty': lambda _: b'',
}


@pytest.mark.parametrize('damage', BROKEN)
@pytest.mark.parametrize('mode', ['w', 'w:gz', 'zip'])
def test_broken_archives_give_nothing(tmp_path: Path, mode: str, damage: str) -> None:
    if mode == 'w' and damage == 'flipped':
        pytest.skip('a plain tar has no checksum of its files: that is what the md5 is for')
    archive = zipped(tmp_path / 'x', FILES) if mode == 'zip' else tar(tmp_path / 'x', FILES, mode)
    archive.write_bytes(BROKEN[damage](archive.read_bytes()))
    with pytest.raises(UserError, match=r'x: broken or truncated .*; get it again'):
        unpacked(archive, tmp_path / 'near').__enter__()
    assert names(tmp_path / 'near') == []


def test_space_for_what_is_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = zipped(tmp_path / 'bomb', {'zeros': bytes(2_000_000)})
    monkeypatch.setattr(download.shutil, 'disk_usage', lambda _: type('', (), {'free': 1_000_000}))
    with pytest.raises(UserError, match=r'unpacking bomb needs 0\.0 GB'):
        unpacked(archive, tmp_path / 'near').__enter__()


def test_merging_keeps_what_is_there(tmp_path: Path) -> None:
    for name, text in {'new/a/x': 'x', 'new/a/y': 'y', 'old/a/y': 'other', 'old/a/z': 'z'}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    archives.merge(tmp_path / 'new', tmp_path / 'old')
    assert {name: (tmp_path / 'old/a' / name).read_text() for name in 'xyz'} == {
        'x': 'x',
        'y': 'y',
        'z': 'z',
    }
