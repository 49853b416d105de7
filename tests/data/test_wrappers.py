"""Facts about data sets inside MMDetection's wrappers."""

from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

from compactdet.config.options import dataset_configs
from compactdet.data.base_dataset import JoinedDatasets, dataset_facts, innermost
from compactdet.data.voc import VOCFormatDataset
from compactdet.errors import UserError
from compactdet.mmdetection import DATASETS

from data_sets import make_voc


def config(root: Path, **options: Any) -> dict[str, Any]:
    return {
        'type': 'VOCFormatDataset',
        'data_root': str(root),
        'ann_file': 'ImageSets/Main/train.txt',
        'metainfo': {'classes': ('cat', 'dog')},
        'pipeline': [],
        **options,
    }


@pytest.fixture
def years(tmp_path: Path) -> list[dict[str, Any]]:
    """Two data sets of two and three images; the first image id occurs in both."""
    return [
        config(make_voc(tmp_path / '2007', {'train': ['a', 'b']})),
        config(make_voc(tmp_path / '2012', {'train': ['a', 'd', 'e']})),
    ]


def build(dataset: dict[str, Any]) -> Any:
    return DATASETS.build(dataset, default_args={'_scope_': 'mmdet'})


def test_joined_data_sets_count_every_image_of_both(years: list[dict[str, Any]]) -> None:
    repeated = {'type': 'RepeatDataset', 'times': 3, 'dataset': years[1]}
    balanced = {'type': 'ClassBalancedDataset', 'oversample_thr': 1.0, 'dataset': years[0]}
    facts = []
    for datasets in (years, [balanced, repeated]):
        joined = innermost(build({'type': 'ConcatDataset', 'datasets': datasets}), 'train', several=True)
        assert isinstance(joined, JoinedDatasets)
        facts.append(dataset_facts(joined))
        names = [joined.get_data_info(i)['img_path'].split('/')[-3] for i in range(len(joined))]
        assert names == ['2007'] * 2 + ['2012'] * 3
    assert facts[0] == facts[1]
    assert (facts[0]['images'], facts[0]['boxes'], facts[0]['classes']) == (5, 5, ['cat', 'dog'])
    alone = {dataset_facts(build(year))['annotations_sha256'] for year in years}
    assert facts[0]['annotations_sha256'] not in alone


def test_a_repeated_data_set_has_the_facts_of_the_data_set(years: list[dict[str, Any]]) -> None:
    inner = innermost(build({'type': 'RepeatDataset', 'times': 3, 'dataset': years[0]}), 'train')
    assert isinstance(inner, VOCFormatDataset)
    assert dataset_facts(inner)['images'] == 2


def test_data_sets_that_cannot_be_joined(years: list[dict[str, Any]]) -> None:
    both = {'type': 'ConcatDataset', 'datasets': years}
    with pytest.raises(UserError, match='test: 2 data sets; only the training split'):
        innermost(build(both), 'test')
    years[1]['metainfo'] = {'classes': ('dog', 'cat')}
    with pytest.raises(UserError, match=r'has the classes dog, cat, .* has cat, dog; name the same'):
        innermost(build(both), 'train', several=True)
    with pytest.raises(UserError, match='train: object cannot be recorded'):
        innermost(object(), 'train')


def test_the_data_sets_of_nested_wrappers_are_found(years: list[dict[str, Any]]) -> None:
    nested = {'type': 'RepeatDataset', 'times': 2, 'dataset': {'type': 'ConcatDataset', 'datasets': years}}
    cfg = Config({'train_dataloader': {'dataset': nested}})
    assert [dataset.data_root for dataset in dataset_configs(cfg)] == [y['data_root'] for y in years]
