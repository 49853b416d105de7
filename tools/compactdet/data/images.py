"""Check image files: complete, and of the size that their annotation states."""

from pathlib import Path

import cv2
from PIL import Image, UnidentifiedImageError

from compactdet.data.problems import DataError

JPEG_SCAN, JPEG_END = b'\xff\xda', b'\xff\xd9'  # markers


# Orientations in EXIF: how a program that applies them turns the stored pixels.
ORIENTATIONS = {
    2: 'mirrored',
    3: 'turned by 180 degrees',
    4: 'mirrored upside down',
    5: 'turned by 90 degrees and mirrored',
    6: 'turned by 90 degrees',
    7: 'turned by 270 degrees and mirrored',
    8: 'turned by 270 degrees',
}


def check_orientation(path: str | Path) -> None:
    """Check that an image has no EXIF orientation, with which boxes may be those of the turned image.

    Raises:
        DataError: It has one.
    """
    with Image.open(path) as image:
        turn = ORIENTATIONS.get(image.getexif().get(274, 1))
    if turn:
        problem = f'programs that apply its EXIF orientation show it {turn}; training uses it as stored'
        cure = 'check that its boxes are those of the stored image, and save it without the orientation'
        raise DataError(problem, cure, file=path, kind='exif-orientation')


def check_image(path: str | Path, width: int, height: int, *, decode: bool = False) -> None:
    """Check an image file against the size in pixels that its annotation states.

    A JPEG file must contain its end marker; bytes may follow. ``decode`` also decodes the image, which is
    slow.

    Raises:
        DataError: The file is missing, not an image, truncated, or of another size.
    """
    try:
        if Path(path).exists() and not Path(path).is_file():
            raise OSError('a folder, a pipe or a device')
        with Path(path).open('rb') as file, Image.open(file) as image:
            size, turned = image.size, image.getexif().get(274, 1) != 1  # 274: EXIF orientation
            truncated = False
            file.seek(-min(64, Path(path).stat().st_size), 2)
            tail = file.read().rstrip(b'\0\r\n ')
            if image.format in ('JPEG', 'MPO') and not tail.endswith(JPEG_END):
                data = Path(path).read_bytes()  # neither marker can occur in the data of a scan
                truncated = data.rfind(JPEG_END) < data.rfind(JPEG_SCAN)
    except FileNotFoundError as error:
        cure = 'get it, or take its id out of the split'
        raise DataError('no such image', cure, file=path, kind='image-missing') from error
    except Exception as error:  # Pillow raises many kinds of errors for damaged files
        reason = 'of no known kind' if isinstance(error, UnidentifiedImageError) else error
        problem = f'not a readable image ({getattr(error, "strerror", None) or reason})'
        raise DataError(problem, 'get the file again', file=path, kind='image-unreadable') from error
    if truncated:
        problem = 'truncated: its data never ends'
        raise DataError(problem, 'get the file again', file=path, kind='image-truncated')
    if size != (width, height):
        exif = '; its EXIF orientation is set: save the image upright without it' if turned else ''
        problem = f'the image is {size[0]}x{size[1]} but its annotation says {width}x{height}'
        raise DataError(problem, f'fix the one that is wrong{exif}', file=path, kind='image-size')
    if decode:
        try:
            with Image.open(path) as image:
                image.load()  # some versions of OpenCV accept truncated files
        except Exception as error:  # as above
            problem = f'truncated or corrupt ({error})'
            raise DataError(problem, 'get it again', file=path, kind='image-truncated') from error
        if cv2.imread(str(path)) is None:
            problem, cure = 'OpenCV cannot decode it', 'get it again or save it as JPEG'
            raise DataError(problem, cure, file=path, kind='image-unreadable')
