"""Downloads with several mirrors, resumed after a break and verified before use.

A file is written as ``.NAME.part`` and moved to its place when its size and checksum are right. The part
before a break is kept and continued (HTTP range) only if a checksum can verify the complete file.
"""

import hashlib
import http.client
import re
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from compactdet.errors import UserError

Progress = Callable[[int, int | None], None]
CHUNK = 1 << 20
AGAIN = (408, 425, 429)  # temporary HTTP statuses, besides those from 500


class _CutError(Exception):
    """The transfer failed; the same address may succeed later."""


class _RefusedError(Exception):
    """This address does not have the file."""


@dataclass(frozen=True)
class RemoteFile:
    """A published file and how to ask for it.

    Attributes:
        urls: Addresses of the same file, tried in order.
        size: Size in bytes, if known; a file of another size is not downloaded.
        checksum: ``md5:...`` or ``sha256:...``, if known; the first digits suffice.
        tries: Number of tries of an address without progress.
        pause_s: Seconds between tries.
        timeout_s: Seconds without an answer from the server.
    """

    urls: Sequence[str]
    size: int | None = None
    checksum: str | None = None
    tries: int = 4
    pause_s: float = 2.0
    timeout_s: float = 30.0


def fetch(
    remote: RemoteFile,
    target: Path,
    *,
    progress: Progress = lambda done, total: None,
    by_hand: str | None = None,
) -> Path:
    """Download a file; return ``target``.

    Args:
        remote: Addresses and checksum of the file.
        target: Path of the file; its folder is created. An existing file with this checksum is kept.
        progress: Called with the number of bytes and the total.
        by_hand: Command for a file that the user has downloaded otherwise.

    Raises:
        UserError: No address has the file, or it cannot be written. The message names the problem of each.
    """
    part = target.with_name(f'.{target.name}.part')
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_file():
            if remote.checksum is not None and wrong_file(target, remote) is None:
                return target
            target.unlink()
        if remote.checksum is None:
            part.unlink(missing_ok=True)
        failures = []
        for url in remote.urls:
            problem = _fetch_from(url, part, remote, progress)
            if problem is None:
                part.replace(target)
                return target
            failures.append(f'{urllib.parse.urlsplit(url).hostname}: {problem}')
    except OSError as error:
        raise UserError(f"cannot write '{target}' ({error.strerror}); choose another --root") from error
    kept = f' What has come is kept: the same command resumes from there ({part}).' if part.exists() else ''
    raise UserError(
        f'could not get {target.name}: {"; ".join(failures)}.{kept} Or get it by other means and use: '
        f'{by_hand or f"python tools/data.py import SET {target.name}"}'
    )


def _fetch_from(url: str, part: Path, remote: RemoteFile, progress: Progress) -> str | None:
    """Download from one address until ``part`` is complete; return the problem, or None."""
    if urllib.parse.urlsplit(url).scheme not in ('http', 'https'):
        return f'{url!r} is no http address'
    most, failed = _length(part), 0
    begun_here = most == 0
    while True:
        try:
            if remote.size is None or _length(part) != remote.size:
                _transfer(url, part, remote, progress)
            problem = wrong_file(part, remote)
            if problem is None:
                return None
            part.unlink()
            if begun_here:
                return problem
            most, begun_here = 0, True  # the first part was from another server or another version
        except _RefusedError as error:
            return str(error)
        except _CutError as error:
            failed = 0 if _length(part) > most else failed + 1
            most = max(most, _length(part))
            if failed >= remote.tries:
                return f'{error} ({remote.tries} tries)'
            time.sleep(remote.pause_s)


def _transfer(url: str, part: Path, remote: RemoteFile, progress: Progress) -> None:
    """Make one request and append its body to the part, or start again if the server has no ranges."""
    size, resume = remote.size, remote.checksum is not None
    offset = _length(part) if resume and _length(part) < (size or float('inf')) else 0
    headers = {'User-Agent': 'compactdet', 'Accept-Encoding': 'identity'}
    request = urllib.request.Request(
        url, headers=headers | ({'Range': f'bytes={offset}-'} if offset else {})
    )
    try:
        response = urllib.request.urlopen(request, timeout=remote.timeout_s)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416:
                if error.headers.get('Content-Range') == f'bytes */{offset}':
                    return  # the part is complete
                part.unlink(missing_ok=True)
                raise _CutError('the server cannot resume from here') from error
            kind = _CutError if error.code >= 500 or error.code in AGAIN else _RefusedError
            raise kind(f'HTTP {error.code} {error.reason}') from error
    except urllib.error.URLError as error:
        raise _CutError(f'no connection ({error.reason})') from error
    except (http.client.HTTPException, OSError) as error:
        raise _CutError(f'no connection ({error or type(error).__name__})') from error
    with response:
        if response.headers.get_content_type() == 'text/html':
            raise _RefusedError('sent a web page in place of the file')
        start = _start_of(response, offset)
        if start != offset and start != 0:
            raise _CutError(f'sent bytes from {start} on, asked for those from {offset} on')
        length = response.headers.get('Content-Length')
        total = start + int(length) if length and length.isdigit() else None
        if size is not None and total is not None and total != size:
            raise _RefusedError(f'has a file of {total} bytes, the published one has {size}')
        done = start
        with part.open('ab' if start else 'wb') as file:
            while True:
                try:
                    data = response.read(CHUNK)
                except http.client.IncompleteRead as error:
                    data = error.partial
                    file.write(data)
                    raise _CutError(f'the connection broke after {done + len(data)} bytes') from error
                except (http.client.HTTPException, OSError) as error:
                    raise _CutError(f'the connection broke after {done} bytes ({error})') from error
                if not data:
                    break
                file.write(data)
                done += len(data)
                progress(done, total or size)
        if total is not None and done < total:
            raise _CutError(f'the connection ended after {done} of {total} bytes')


def _start_of(response: http.client.HTTPResponse, offset: int) -> int:
    """Return the first byte position of a response."""
    if response.status != 206:
        return 0
    match = re.match(r'bytes (\d+)-', response.headers.get('Content-Range', ''))
    return int(match[1]) if match else offset


def wrong_file(path: Path, remote: RemoteFile) -> str | None:
    """Return in words how a file differs from the published one, or None."""
    size, checksum = remote.size, remote.checksum
    there = _length(path)
    if size is not None and there != size:
        return f'{there} bytes came, the published file has {size}'
    if checksum is not None:
        kind, _, wanted = checksum.partition(':')
        found = file_hash(path, kind)
        if not wanted or not found.startswith(wanted):
            with path.open('rb') as file:
                page = file.read(256).lstrip().lower().startswith((b'<!doctype', b'<html'))
            what = 'a web page' if page else 'another file'
            return f'sent {what}: its {kind} is {found}, published is {wanted}'
    return None


def file_hash(path: Path, kind: str) -> str:
    """Return the hash of a file as hexadecimal digits; ``kind`` is a name of hashlib."""
    digest = hashlib.new(kind, usedforsecurity=False)
    with path.open('rb') as file:
        while data := file.read(CHUNK):
            digest.update(data)
    return digest.hexdigest()


def need_space(folder: Path, needed: int, what: str) -> None:
    """Raise UserError if there is not enough free space.

    Raises:
        UserError: There is not enough free space.
    """
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise UserError(
            f"{what} needs {needed / 1e9:.1f} GB in '{folder}', but {free / 1e9:.1f} GB are free; "
            'make room or choose another disk (--root)'
        )


def _length(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
