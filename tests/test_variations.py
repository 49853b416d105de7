"""Stock parts of MMDetection train, test and leave a record, or are refused in one line."""

import importlib.util
from pathlib import Path

import pytest

from compactdet.config.options import TrainOptions
from compactdet.errors import UserError, user_line
from compactdet.records import record_file
from compactdet.training.train import train

from variations import VARIATIONS, Variation, config

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures('plain_config_text')]


@pytest.mark.parametrize('variation', VARIATIONS, ids=lambda variation: variation.name)
def test_one_step(variation: Variation, tiny_set: Path, tmp_path: Path) -> None:
    file = tmp_path / 'leaf.py'
    config(variation, str(tiny_set)).dump(file)
    options = TrainOptions(str(file), str(tmp_path / 'run'))
    refused = variation.refused
    if variation.needs and importlib.util.find_spec(variation.needs) is None:
        refused = f'install.*{variation.needs}|{variation.needs} is not installed'
    if refused:
        with pytest.raises(UserError, match=refused) as caught:
            train(options)
        assert user_line(caught.value).startswith(str(file))
        assert not [*tmp_path.rglob('*.pth'), *tmp_path.rglob('record.json')]
        return
    record = record_file.read(train(options))
    assert record['detector'] == (variation.detector or variation.base)
    assert record['training']['iterations'] >= 1
    at_input = record['costs']['at_input']
    assert ('not_measured' not in at_input) == (at_input['total_macs'] is not None) == variation.measured
    assert record['metrics']['test']
