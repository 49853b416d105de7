"""A finished run is recognized by its settings and the content of its data, wherever they are."""

import shutil
from pathlib import Path

import pytest

from compactdet.config.options import TrainOptions, config_from_options
from compactdet.errors import UserError
from compactdet.records import record_file
from compactdet.records.protocol import protocol_of
from compactdet.training.finished import is_finished
from compactdet.training.record_facts import split_facts
from compactdet.training.run_stages import build_datasets


def test_the_same_data_in_another_folder(
    tiny_run: Path, tiny_config: Path, tiny_set: Path, tmp_path: Path
) -> None:
    moved = shutil.copytree(tiny_set, tmp_path / 'job_2')
    options = TrainOptions(str(tiny_config), str(tiny_run), 'auto', 3, str(moved))
    cfg, path = config_from_options(options), tiny_run / 'record.json'
    assert is_finished(cfg, path)
    record = record_file.read(path)
    splits = {name: split_facts(dataset, []) for name, dataset in build_datasets(cfg).items()}
    assert protocol_of(cfg, splits, 'none') == record['protocol']

    for file in (moved / 'Annotations').glob('*.xml'):
        file.write_text(file.read_text().replace('<difficult>0', '<difficult>1'))
    with pytest.raises(UserError, match='its train split is of other data'):
        is_finished(cfg, path)


def test_another_setting_of_a_finished_run_is_named(tiny_run: Path, tiny_config: Path) -> None:
    path = tiny_run / 'record.json'

    def finished(seed: int = 3, **options: object) -> bool:
        made = TrainOptions(str(tiny_config), str(tiny_run), 'auto', seed, cfg_options=options)
        return is_finished(config_from_options(made), path)

    assert finished(**{'train_dataloader.num_workers': 0, 'train_dataloader.persistent_workers': False})
    with pytest.raises(UserError, match=r'its train_cfg\.max_epochs is 2, not 5'):
        finished(**{'train_cfg.max_epochs': 5})
    with pytest.raises(UserError, match='its seed is 3, not 4'):
        finished(4)
