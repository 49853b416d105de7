"""Small archives of classification images, whose every value is known."""

import io
import tarfile
import zipfile

import cv2
import numpy as np

CLASSES = ('ant', 'bee', 'cat')


def png(value: int, size: int = 8) -> bytes:
    """A square of one gray, encoded without loss."""
    return cv2.imencode('.png', np.full((size, size, 3), value, np.uint8))[1].tobytes()


def members(per_class: int = 2) -> dict[str, bytes]:
    """Images by CLASS/FILE; the value of class c's image i is 10 c + i."""
    return {f'{name}/{i}.png': png(10 * c + i) for c, name in enumerate(CLASSES) for i in range(per_class)}


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def tar_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode='w') as tar:
        for name, data in files.items():
            add(tar, name, data)
    return buffer.getvalue()


def zip_of(files: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w', method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()
