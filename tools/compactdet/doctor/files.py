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
from compactdet.data.coco_file import FOLDERS, find_annotation_file
from compactdet.data.layout import Layout, published_layout
from compactdet.doctor.findings import Finding, Places
from compactdet.errors import UserError
from compactdet.training.checkpoints import read_checkpoint

SMALL_SET = 20_000  # number of images whose sizes are read in seconds


def examine(places: Places) -> list[Finding]:
    """Return all findings."""
    return [*check_data(places), *check_weights(places), *check_checkpoints(places)]


def check_data(places: Places) -> Iterator[Finding]:
    """Check the published data sets."""
    for name, source in SOURCES.items():
        where = places.data / source.root
        if not where.is_dir():
            drawn = name == 'shapes'
            cure = 'it is drawn when it is first used' if drawn else f'python tools/data.py get {name}'
            yield Finding('data', 'absent', f'{name} is not in {where}', cure)
            continue
        try:
            layout = published_layout(name, places.data)
            count = sum((layout.expected or {}).values())
            if count > SMALL_SET and not places.full:
                yield _look(name, layout, count)
                continue
            problems = [p for p in check(layout, decode=places.full) if p.severity == 'error']
        except UserError as error:
            yield Finding('data', 'problem', ' '.join(str(error).split()), main_job=name == 'shapes')
            continue
        if problems:
            first = f'{problems[0].problem} ({problems[0].file or problems[0].image})'
            text = f'{name} in {where} has {len(problems)} problems, the first: {first}'
            cure = f'python tools/data.py check {name} lists them with their cures'
            yield Finding('data', 'problem', text, cure, main_job=name == 'shapes')
        else:
            yield Finding('data', 'ok', f'{name} in {where}: {", ".join(layout.splits)} read, no problem')


def _look(name: str, layout: Layout, count: int) -> Finding:
    """Check that the files of a large data set exist, without reading them."""
    for file in layout.splits.values():
        find_annotation_file(layout.root, file)
    images = sum(len([*layout.root.glob(f'{folder}/*.jpg')]) for folder in FOLDERS)
    if images < count:
        cure = f'python tools/data.py get {name} goes on where it stopped'
        return Finding('data', 'problem', f'{name} in {layout.root} has {images} of {count} images', cure)
    cure = f'python tools/data.py check {name} reads them'
    return Finding('data', 'ok', f'{name} in {layout.root}: {images} images, not read', cure)


def check_weights(places: Places) -> Iterator[Finding]:
    """Check that every weights file is complete and of a known network."""
    files = sorted(places.weights.glob('*.safetensors'))
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
        cure = 'README, "ImageNet weights"; or train with --init none'
        yield Finding('weights', 'absent', f'no weights in {places.weights}', cure)


def check_checkpoints(places: Places) -> Iterator[Finding]:
    """Check that PyTorch reads what it writes, and that the last checkpoint of every run can be read."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / 'x.pth'
        torch.save({'state_dict': {'x': torch.arange(3)}, 'meta': {'epoch': 1}}, file)
        if read_checkpoint(file)['state_dict']['x'].tolist() != [0, 1, 2]:
            cure = 'python -m pip install --force-reinstall torch'
            yield Finding(
                'checkpoints', 'problem', 'PyTorch reads other values than it wrote', cure, main_job=True
            )
    wanted = list(places.checkpoints)
    for pointer in sorted(places.work_dirs.glob('*/last_checkpoint')):
        wanted.append(pointer.parent / Path(pointer.read_text(encoding='utf-8').strip()).name)
    unreadable = 0
    for file in wanted:
        try:
            read_checkpoint(file)
        except (WeightsError, UserError) as error:
            unreadable += 1
            cure = 'resume from an older checkpoint (--resume FILE), or run again'
            yield Finding('checkpoints', 'problem', ' '.join(str(error).split()), cure)
    yield Finding(
        'checkpoints',
        'ok',
        f'written and read; {len(wanted) - unreadable} of {len(wanted)} found are readable',
    )
