"""What the console shows of a record."""

import pytest
from test_records import example_record, put

from bench import records, report


@pytest.mark.parametrize(('speed', 'shown'), [(2.5, ' (2.5 images/s), started'), (None, ' min, started')])
def test_a_record_is_shown_with_and_without_its_speed(tmp_path, capsys, speed, shown):
    record = put(example_record(), 'training.images_per_s', speed)
    records.write(tmp_path / 'record.json', record)
    report.show(tmp_path / 'record.json')
    assert shown in ' '.join(capsys.readouterr().out.split())
