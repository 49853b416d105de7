"""Catalog of the published data sets: location on disk, content, downloads.

Checksums are the published MD5 sums or those that users of the files check. The archive of BCCD is
generated
by its host on request and has no checksum, so its commit is pinned and its images are counted.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Archive:
    """A file to download.

    Attributes:
        name: File name.
        urls: Addresses, in the order in which they are tried.
        gives: Unpacked paths below ``home`` of the data set, with the number of JPEG images in each (0: a
            file; -1: a split file whose images must exist).
        size: Size in bytes; None if unknown.
        checksum: ``md5:...`` or ``sha256:...``; None if none is published.
        members: Patterns of the files to unpack.
    """

    name: str
    urls: tuple[str, ...]
    gives: dict[str, int]
    size: int | None = None
    checksum: str | None = None
    members: tuple[str, ...] = ('*',)


@dataclass(frozen=True)
class Source:
    """A published data set.

    Attributes:
        home: Folder of its parts, below the folder of all data sets.
        root: Folder for ``--data-root``, below the folder of all data sets.
        parts: Folders that make up the data set, below ``home``.
        config: Its base config in ``det_configs/_base_/datasets``.
        splits: Number of images of each split, by the file of the split below ``root``.
        archives: Archives by variant; the first variant is the default.
    """

    home: str
    root: str
    parts: tuple[str, ...]
    config: str
    splits: dict[str, int]
    archives: dict[str, tuple[Archive, ...]] = field(default_factory=dict)


VOC = 'http://host.robots.ox.ac.uk/pascal/VOC/voc2007/'
VOC_MIRROR = 'https://pjreddie.com/media/files/'
# Two addresses of one bucket: its own host name has no valid certificate.
COCO = ('https://s3.amazonaws.com/images.cocodataset.org/', 'http://images.cocodataset.org/')
BCCD_COMMIT = 'd272fb14cdff6e473fafeeeba32aba5f560e9e43'


def _coco(path: str, gives: dict[str, int], size: int, md5: str, members: tuple[str, ...]) -> Archive:
    name = path.rpartition('/')[2]
    return Archive(name, tuple(base + path for base in COCO), gives, size, f'md5:{md5}', members)


def _coco_images(folder: str, count: int, size: int, md5: str) -> Archive:
    return _coco(f'zips/{folder}.zip', {folder: count}, size, md5, ('*.jpg',))


def _coco_boxes(year: int, size: int, md5: str) -> Archive:
    files = tuple(f'annotations/instances_{split}{year}.json' for split in ('train', 'val'))
    path = f'annotations/annotations_trainval{year}.zip'
    return _coco(path, dict.fromkeys(files, 0), size, md5, files)


BOXES_2017 = _coco_boxes(2017, 252_907_541, 'f4bbac642086de4f52a3fdda2de5fa2c')

SOURCES = {
    'voc07': Source(
        home='VOCdevkit',
        root='VOCdevkit',
        parts=('VOC2007',),
        config='voc07',
        splits={'VOC2007/ImageSets/Main/trainval.txt': 5011, 'VOC2007/ImageSets/Main/test.txt': 4952},
        archives={
            '2007': (
                Archive(
                    'VOCtrainval_06-Nov-2007.tar',
                    (VOC + 'VOCtrainval_06-Nov-2007.tar', VOC_MIRROR + 'VOCtrainval_06-Nov-2007.tar'),
                    {'VOC2007/ImageSets/Main/trainval.txt': -1},
                    460_032_000,
                    'md5:c52e279531787c972589f7e41ab4ae64',
                ),
                Archive(
                    'VOCtest_06-Nov-2007.tar',
                    (VOC + 'VOCtest_06-Nov-2007.tar', VOC_MIRROR + 'VOCtest_06-Nov-2007.tar'),
                    {'VOC2007/ImageSets/Main/test.txt': -1},
                    451_020_800,
                    'md5:b6e924de25625d8de591ea690078ad9f',
                ),
            )
        },
    ),
    'coco': Source(
        home='coco',
        root='coco',
        parts=('annotations', 'train2017', 'val2017', 'train2014', 'val2014'),
        config='coco',
        splits={
            'annotations/instances_trainval35k.json': 118_287,
            'annotations/instances_minival2014.json': 5_000,
        },
        archives={
            '2017': (
                BOXES_2017,
                _coco_images('val2017', 5_000, 815_585_330, '442b8da7639aecaf257c1dceb8ba8c80'),
                _coco_images('train2017', 118_287, 19_336_861_798, 'cced6f7f71b7629ddf16f17bbcfab6b2'),
            ),
            '2014': (
                BOXES_2017,  # val2017 lists the images of minival2014
                _coco_boxes(2014, 252_872_794, '0a379cfc70b0e71301e0f377548639bd'),
                _coco_images('val2014', 40_504, 6_645_013_297, 'a3d79f5ed8d289b7a7554ce06a5782b3'),
                _coco_images('train2014', 82_783, 13_510_573_713, '0da8c0bd3d6becc4dcb32757491aca88'),
            ),
        },
    ),
    'bccd': Source(
        home='.',
        root='BCCD',
        parts=('BCCD',),
        config='bccd',
        splits={
            'ImageSets/Main/train.txt': 205,
            'ImageSets/Main/val.txt': 87,
            'ImageSets/Main/test.txt': 72,
        },
        archives={
            '2018': (
                Archive(
                    f'BCCD_Dataset-{BCCD_COMMIT[:7]}.zip',
                    (f'https://github.com/Shenggan/BCCD_Dataset/archive/{BCCD_COMMIT}.zip',),
                    {f'BCCD/ImageSets/Main/{split}.txt': -1 for split in ('train', 'val', 'test')},
                    members=('*/BCCD/*',),
                ),
            )
        },
    ),
    'shapes': Source(
        home='.',
        root='shapes',
        parts=('shapes',),
        config='shapes',
        splits={
            'ImageSets/Main/train.txt': 3000,
            'ImageSets/Main/val.txt': 200,
            'ImageSets/Main/test.txt': 500,
        },
    ),
}
