"""Checks of data sets, weights files and checkpoints."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from backbones import get_arch
from backbones.spec import UnknownArchError
from backbones.weights import WeightsError, read_weights
from compactdet.data.catalog import SOURCES
from compactdet.data.check import check
from compactdet.data.coco_file import find_annotation_file
from compactdet.data.coco_images import FOLDERS
from compactdet.data.layout import Layout, published_layout
from compactdet.doctor.findings import DoctorOptions, Finding, run_check
from compactdet.errors import UserError
from compactdet.training.checkpoints import read_checkpoint

MAX_IMAGES_READ = 20_000  # the sizes of this many images are read in seconds


def check_files(options: DoctorOptions) -> Iterator[Finding]:
    """Check data sets, weights files and checkpoints; a failing check does not affect the others."""
    yield from run_check('data', check_data, options)
    yield from run_check('weights', check_weights, options)
    yield from run_check('checkpoints', check_checkpoints, options)


def check_data(options: DoctorOptions) -> Iterator[Finding]:
    """Check the published data sets."""
    for name, source in SOURCES.items():
        folder = options.data / source.root
        if not folder.is_dir():
            cure = f'python tools/data.py get {name}'
            if name == 'shapes':
                cure = 'it is drawn at the first use'
            yield Finding('data', 'absent', f'{name} is not in {folder}', cure)
            continue
        try:
            layout = published_layout(name, options.data)
            count = sum((layout.expected or {}).values())
            if count > MAX_IMAGES_READ and not options.full:
                yield _count_images(name, layout, count)
                continue
            problems = [p for p in check(layout, decode=options.full) if p.severity == 'error']
        except UserError as error:
            yield Finding('data', 'problem', ' '.join(str(error).split()), main_job=name == 'shapes')
            continue
        if problems:
            first = f'{problems[0].problem} ({problems[0].file or problems[0].image})'
            text = f'{name} in {folder} has {len(problems)} problems; the first: {first}'
            cure = f'python tools/data.py check {name} lists them with remedies'
            yield Finding('data', 'problem', text, cure, main_job=name == 'shapes')
        else:
            yield Finding('data', 'ok', f'{name} in {folder}: {", ".join(layout.splits)} read, no problem')


def _count_images(name: str, layout: Layout, expected: int) -> Finding:
    """Check that the annotation files and all images of a large data set exist, without reading them."""
    for file in layout.splits.values():
        find_annotation_file(layout.root, file)  # raises UserError if it is missing
    images = sum(len([*layout.root.glob(f'{folder}/*.jpg')]) for folder in FOLDERS)
    if images < expected:
        cure = f'python tools/data.py get {name} resumes the download'
        return Finding(
            'data', 'problem', f'{name} in {layout.root} has {images} of {expected} images', cure
        )
    cure = f'python tools/data.py check {name} reads them'
    return Finding('data', 'ok', f'{name} in {layout.root}: {images} images, not read', cure)


def check_weights(options: DoctorOptions) -> Iterator[Finding]:
    """Check that every weights file is complete and belongs to a known network."""
    files = sorted(options.weights.glob('*.safetensors'))
    for file in files:
        try:
            _, info = read_weights(file)
            get_arch(info.arch)
        except (WeightsError, UnknownArchError) as error:
            cure = 'convert it again: python tools/weights.py convert'
            yield Finding('weights', 'problem', ' '.join(f'{file}: {error}'.split()), cure)
        else:
            yield Finding('weights', 'ok', f'{file}: {info.arch}, {info.pretraining.data}')
    if not files:
        cure = 'see "ImageNet weights" in tools/README.md, or train with --init none'
        yield Finding('weights', 'absent', f'no weights in {options.weights}', cure)


def check_checkpoints(options: DoctorOptions) -> Iterator[Finding]:
    """Check that PyTorch reads what it writes, and that the last checkpoint of every run is readable."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / 'x.pth'
        torch.save({'state_dict': {'x': torch.arange(3)}, 'meta': {'epoch': 1}}, file)
        if read_checkpoint(file)['state_dict']['x'].tolist() != [0, 1, 2]:
            cure = 'python -m pip install --force-reinstall torch'
            yield Finding(
                'checkpoints', 'problem', 'PyTorch reads other values than it wrote', cure, main_job=True
            )
    checkpoints = list(options.checkpoints)
    for pointer in sorted(options.work_dirs.glob('*/last_checkpoint')):
        checkpoints.append(pointer.parent / Path(pointer.read_text(encoding='utf-8').strip()).name)
    unreadable = 0
    for file in checkpoints:
        try:
            read_checkpoint(file)
        except (WeightsError, UserError) as error:
            unreadable += 1
            cure = 'resume from an older checkpoint (--resume FILE), or repeat the run'
            yield Finding('checkpoints', 'problem', ' '.join(str(error).split()), cure)
    readable = f'{len(checkpoints) - unreadable} of {len(checkpoints)} checkpoints readable'
    yield Finding('checkpoints', 'ok', f'test file written and read; {readable}')
