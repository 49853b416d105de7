"""tools/data.py get and import, and the sets of the user: what is in place is whole."""

import json
import shutil
import tarfile
import threading
import zipfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config
from mmengine.registry import DefaultScope

import backbones  # noqa: F401  before mmdet
import compactdet.data.coco  # noqa: F401  registers COCOFormatDataset
import compactdet.data.voc  # noqa: F401
from compactdet.data import catalog
from compactdet.data import layout as datasets
from compactdet.data.base_dataset import dataset_facts
from compactdet.data.catalog import SOURCES
from compactdet.data.check import check
from compactdet.data.download import file_hash
from compactdet.data.layout import custom_config, custom_dataset, roles
from compactdet.errors import UserError
from compactdet.mmdetection import DATASETS

from data_sets import GOOD, coco_data, found, make_coco, make_voc, picture


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    return make_voc(tmp_path / 'voc', GOOD)


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    return make_coco(tmp_path / 'coco', {'train2017': [1, 2, 3], 'val2017': [4, 5]})


# A set of the user's


def test_roles() -> None:
    def of(*names: str) -> dict[str, str]:
        return roles(dict.fromkeys(names, ''), Path('x'))

    assert of('train', 'val', 'test', 'trainval') == {'train': 'train', 'val': 'val', 'test': 'test'}
    assert of('trainval', 'test') == {'train': 'trainval', 'test': 'test'}
    assert of('trainval', 'train', 'val') == {'train': 'train', 'test': 'val'}
    assert of('train2017', 'val2017') == {'train': 'train2017', 'test': 'val2017'}
    assert of('train', 'valid', 'test') == {'train': 'train', 'val': 'valid', 'test': 'test'}
    assert of('trainval35k', 'minival2014') == {'train': 'trainval35k', 'test': 'minival2014'}
    for names in (('trainval', 'val'), ('train',), ('test',), ('a', 'b')):
        with pytest.raises(UserError, match=f'splits {", ".join(names)}; a run needs two'):
            of(*names)


def test_custom_sets_are_described(voc: Path, coco: Path) -> None:
    assert custom_dataset(voc) == {
        'format': 'voc',
        'type': 'VOCFormatDataset',
        'data_root': str(voc),
        'classes': ['cat', 'dog'],
        'splits': {s: f'ImageSets/Main/{s}.txt' for s in ('train', 'val', 'test')},
    }
    description = custom_dataset(coco)
    assert (description['type'], description['classes']) == ('COCOFormatDataset', ['dog', 'cat'])
    assert description['splits'] == {
        'train': 'annotations/instances_train2017.json', 'test': 'annotations/instances_val2017.json',
    }  # fmt: skip
    assert custom_dataset(voc, ['dog', 'cat'])['classes'] == ['dog', 'cat']


@pytest.mark.parametrize('kind', ['voc', 'coco'])
def test_custom_config_can_be_used(request: Any, kind: str) -> None:
    root = request.getfixturevalue(kind)
    config = Config(custom_config(root))
    static = Config.fromfile(datasets.BASES / 'voc07.py')
    assert set(config.keys()) == {*static.keys(), 'dataset_type'}
    images = {}
    for role in ('train', 'val', 'test'):
        loader = config[f'{role}_dataloader']
        if loader is not None:
            with DefaultScope.overwrite_default_scope('mmdet'):
                dataset = DATASETS.build(loader.dataset)
                assert dataset[0]['inputs'].shape == (3, 600, 800)
            images[role] = dataset_facts(dataset)['images']
            assert dataset.metainfo['name'] == root.name
    assert images == {'voc': {'train': 3, 'val': 1, 'test': 2}, 'coco': {'train': 3, 'test': 2}}[kind]
    assert (config.val_evaluator is None) == (config.val_cfg is None) == (kind == 'coco')


def test_export_of_annotation_tools(tmp_path: Path) -> None:
    for split, ids in {'train': [1, 2], 'valid': [3], 'test': [4]}.items():
        (tmp_path / split).mkdir()
        (tmp_path / split / '_annotations.coco.json').write_text(json.dumps(coco_data(ids)))
        for i in ids:
            picture(tmp_path / split / f'{i:012}.jpg', i)
    assert found(tmp_path) == {}
    assert set(custom_dataset(tmp_path)['splits']) == {'train', 'val', 'test'}


# get and import


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A server of the sets' archives, tiny ones; the table points at it."""
    folder = tmp_path / 'site'
    folder.mkdir()
    make_voc(tmp_path / 'made/a/VOCdevkit/VOC2007', {'trainval': ['1', '2'], 'train': ['1'], 'val': ['2']})
    make_voc(tmp_path / 'made/b/VOCdevkit/VOC2007', {'test': ['3']})
    make_voc(tmp_path / 'made/c/BCCD_Dataset-main/BCCD', {'train': ['a'], 'val': ['b'], 'test': ['c']})
    make_coco(tmp_path / 'made/d', {'train2017': [1, 2, 4], 'val2017': [3, 5]})
    make_coco(tmp_path / 'made/e', {'train2014': [1, 2], 'val2014': [3, 4, 5]})
    for name, source in (('VOCtrainval_06-Nov-2007.tar', 'a'), ('VOCtest_06-Nov-2007.tar', 'b')):
        with tarfile.open(folder / name, 'w') as archive:
            archive.add(tmp_path / 'made' / source / 'VOCdevkit', 'VOCdevkit')
    zips = {
        SOURCES['bccd'].archives['2018'][0].name: ('c', ''),
        **{f'{name}.zip': ('d', name) for name in ('train2017', 'val2017')},
        **{f'{name}.zip': ('e', name) for name in ('train2014', 'val2014')},
        'annotations_trainval2017.zip': ('d', 'annotations'),
        'annotations_trainval2014.zip': ('e', 'annotations'),
    }
    for name, (source, part) in zips.items():
        with zipfile.ZipFile(folder / name, 'w') as archive:
            for path in sorted((tmp_path / 'made' / source / part).rglob('*')):
                archive.write(path, path.relative_to(tmp_path / 'made' / source))
    handler = partial(SimpleHTTPRequestHandler, directory=folder)
    monkeypatch.setattr(SimpleHTTPRequestHandler, 'log_message', lambda *_: None)
    server = ThreadingHTTPServer(('127.0.0.1', 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.01})
    thread.start()
    counts = {'train2017': 3, 'val2017': 2, 'train2014': 2, 'val2014': 3}
    splits = {'trainval.txt': 2, 'test.txt': 1, 'trainval35k.json': 3, 'minival2014.json': 2}
    for name in ('voc07', 'coco', 'bccd'):
        archives = {
            variant: tuple(
                replace(
                    archive,
                    urls=(
                        f'http://127.0.0.1:{server.server_port}/absent/{archive.name}',
                        f'http://127.0.0.1:{server.server_port}/{archive.name}',
                    ),
                    size=(folder / archive.name).stat().st_size,
                    checksum=f'md5:{file_hash(folder / archive.name, "md5")}' if archive.checksum else None,
                    gives={path: counts.get(path, count) for path, count in archive.gives.items()},
                )
                for archive in some
            )
            for variant, some in SOURCES[name].archives.items()
        }
        published = {
            f: splits.get(f.rpartition('_')[2].rpartition('/')[2], 1) for f in SOURCES[name].splits
        }
        monkeypatch.setitem(
            catalog.SOURCES, name, replace(SOURCES[name], archives=archives, splits=published)
        )
    yield folder
    server.shutdown()
    server.server_close()
    thread.join()


def tree(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob('*') if path.is_file()}


@pytest.mark.parametrize(
    ('name', 'options', 'images'),
    [
        ('voc07', (), {'trainval': 2, 'test': 1}),
        ('bccd', (), {'train': 1, 'val': 1, 'test': 1}),
        ('coco', (), {'trainval35k': 3, 'minival2014': 2}),
        ('coco', ('--files', '2014'), {'trainval35k': 3, 'minival2014': 2}),
    ],
)
def test_get(
    site: Path, tmp_path: Path, run_tool: Callable, name: str, options: tuple, images: dict[str, int]
) -> None:
    data = tmp_path / 'data'
    status, out, err = run_tool('data', 'get', name, '--root', data, *options)
    assert (status, f'check {name} --root {data}' in out) == (0, True), err
    assert list(data.rglob('.*')) == []
    assert not (data / 'downloads').exists()
    layout = datasets.find_layout(name, data)
    layout = replace(layout, classes=None)  # cat and dog
    assert [p.kind for p in check(layout) if p.kind != 'same-pixels'] == []
    assert layout.expected == images
    before = tree(data)
    shutil.rmtree(site)
    assert (
        run_tool('data', 'get', name, '--root', data, *options)[0] == 0
    )  # all is there: nothing to ask for
    assert tree(data) == before


def test_get_goes_on_and_keeps(site: Path, tmp_path: Path, run_tool: Callable) -> None:
    data = tmp_path / 'data'
    archive = site / 'VOCtest_06-Nov-2007.tar'
    good = archive.read_bytes()
    archive.write_bytes(good[:-1000])
    status, _, err = run_tool('data', 'get', 'voc07', '--root', data, '--keep')
    assert (status, 'could not get VOCtest_06-Nov-2007.tar: ' in err) == (1, True)
    assert tree(data / 'VOCdevkit') == {
        *(f'VOC2007/{part}' for i in '12' for part in (f'Annotations/{i}.xml', f'JPEGImages/{i}.jpg')),
        *(f'VOC2007/ImageSets/Main/{split}.txt' for split in ('train', 'val', 'trainval')),
    }
    archive.write_bytes(good)
    (site / 'VOCtrainval_06-Nov-2007.tar').unlink()  # it is in place
    assert run_tool('data', 'get', 'voc07', '--root', data, '--keep')[0] == 0
    assert tree(data / 'downloads') == {archive.name, 'VOCtrainval_06-Nov-2007.tar'}


def test_get_needs_space(site: Path, tmp_path: Path, run_tool: Callable, monkeypatch: Any) -> None:
    monkeypatch.setattr('compactdet.data.download.shutil.disk_usage', lambda _: type('', (), {'free': 10}))
    status, _, err = run_tool('data', 'get', 'voc07', '--root', tmp_path / 'data')
    assert (status, "data set 'voc07' needs 0.0 GB" in err) == (1, True)
    assert not (tmp_path / 'data').exists()


@pytest.mark.parametrize('how', ['archives', 'folder', 'inner', 'link'])
def test_import(site: Path, tmp_path: Path, run_tool: Callable, how: str) -> None:
    data, made = tmp_path / 'data', tmp_path / 'made'
    paths = {
        'archives': [site / 'VOCtrainval_06-Nov-2007.tar', site / 'VOCtest_06-Nov-2007.tar'],
        'folder': [made / 'a', made / 'b'],
        'inner': [made / 'a/VOCdevkit/VOC2007', made / 'b/VOCdevkit'],
        'link': [made / 'a', '--link'],
    }[how]
    status, _, err = run_tool('data', 'import', 'voc07', *paths, '--root', data)
    assert status == 0, err
    assert (data / 'VOCdevkit/VOC2007').is_symlink() == (how == 'link')
    assert (data / 'VOCdevkit/VOC2007/JPEGImages/3.jpg').is_file() == (how != 'link')
    assert [p for p in tree(data) if '.copy' in p or '.unpack' in p] == []
    assert (made / 'a/VOCdevkit/VOC2007/JPEGImages/1.jpg').is_file()


def test_import_coco_of_2014_builds_the_splits(site: Path, tmp_path: Path, run_tool: Callable) -> None:
    data, made = tmp_path / 'data', tmp_path / 'made'
    assert run_tool('data', 'import', 'coco', made / 'd/annotations', made / 'e', '--root', data)[0] == 0
    built = json.loads((data / 'coco/annotations/instances_minival2014.json').read_text())
    assert [image['id'] for image in built['images']] == [3, 5]


def test_bad_imports(site: Path, tmp_path: Path, run_tool: Callable) -> None:
    data = tmp_path / 'data'

    def refused(*arguments: Any) -> str:
        status, _, err = run_tool('data', 'import', *arguments, '--root', data)
        assert status == 1
        return err

    archive = site / 'VOCtest_06-Nov-2007.tar'
    assert 'no such file or folder' in refused('voc07', tmp_path / 'no')
    assert "holds nothing of the data set 'coco'" in refused('coco', archive)
    assert "holds nothing of the data set 'voc07'" in refused('voc07', tmp_path / 'made/d')
    (tmp_path / 'text').write_text('x')
    assert 'no tar or zip file' in refused('voc07', tmp_path / 'text')
    archive.write_bytes(archive.read_bytes()[:-5000])
    assert 'not the published file' in refused('voc07', archive)
    split = tmp_path / 'made/a/VOCdevkit/VOC2007/ImageSets/Main/trainval.txt'
    split.write_text('1\n')
    assert 'has 1 images, the published split has 2' in refused('voc07', tmp_path / 'made/a')
    assert not data.exists() or tree(data) == set()
    assert run_tool('data', 'import', 'voc07', tmp_path / 'made/a', '--root', data, '--subset')[0] == 0


def test_import_custom(voc: Path, coco: Path, tmp_path: Path, run_tool: Callable) -> None:
    data = tmp_path / 'data'
    with zipfile.ZipFile(tmp_path / 'mine.zip', 'w') as archive:
        for path in sorted(coco.rglob('*')):
            archive.write(path, path.relative_to(coco.parent))
    assert run_tool('data', 'import', 'custom', tmp_path / 'mine.zip', '--root', data)[0] == 0
    assert run_tool('data', 'import', 'custom', voc, '--root', data, '--name', 'dogs')[0] == 0
    assert tree(data / 'mine') == tree(coco)
    assert found(data / 'mine') == found(data / 'dogs') == {}
    status, _, err = run_tool('data', 'import', 'custom', voc, '--root', data, '--name', 'dogs')
    assert (status, 'already exists' in err) == (1, True)
    status, _, err = run_tool('data', 'import', 'custom', tmp_path / 'mine', '--root', data, '--name', 'x')
    assert status == 1
    assert not (data / 'x').exists()
    with zipfile.ZipFile(tmp_path / 'deep.zip', 'w') as archive:
        for path in sorted(voc.rglob('*')):
            archive.write(path, Path('one/two') / path.relative_to(voc))
    assert run_tool('data', 'import', 'custom', tmp_path / 'deep.zip', '--root', data)[0] == 0
    assert tree(data / 'deep') == tree(voc)
    with zipfile.ZipFile(tmp_path / 'other.zip', 'w') as archive:
        archive.writestr('one/x.txt', '')
    status, _, err = run_tool('data', 'import', 'custom', tmp_path / 'other.zip', '--root', data)
    assert (status, 'other.zip' in err, '.unpack' in err) == (1, True, False)
    before = tree(voc)
    status, _, err = run_tool('data', 'import', 'custom', voc, '--root', voc, '--name', 'inner')
    assert (status, 'itself' in err, tree(voc)) == (1, True, before)
    assert run_tool('data', 'import', 'custom', voc, '--root', data, '--name', '../out')[0] == 2


def test_the_table_of_sources() -> None:
    for name, source in SOURCES.items():
        config = Config.fromfile(datasets.BASES / f'{source.config}.py')
        for loader in (config.train_dataloader, config.test_dataloader):
            assert loader.dataset.ann_file in source.splits, name
        for some in source.archives.values():
            for archive in some:
                assert all(url.startswith('http') for url in archive.urls)
                assert archive.checksum is None or len(archive.checksum) == len('md5:') + 32
    assert SOURCES['coco'].splits['annotations/instances_minival2014.json'] == 5000
    assert SOURCES['coco'].splits['annotations/instances_trainval35k.json'] == 82_783 + 40_504 - 5_000
