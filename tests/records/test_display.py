"""Console output of a record."""

import pytest

from compactdet.records import display, record_file

from record_examples import example_record, put


@pytest.mark.parametrize(('speed', 'shown'), [(2.5, ' (2.5 images/s), started'), (None, ' min, started')])
def test_results_with_and_without_speed(tmp_path, capsys, speed, shown):
    record = put(example_record(), 'training.images_per_s', speed)
    record_file.write(tmp_path / 'record.json', record)
    display.show_results(tmp_path / 'record.json')
    out = capsys.readouterr().out
    assert shown in ' '.join(out.split())
    assert f'next: python tools/predict.py {tmp_path} IMAGE\n' in out
