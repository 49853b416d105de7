"""The results table has the values that are computed by hand."""

import json

import pytest

from compactdet.errors import UserError
from compactdet.records import record_file, results_table

from record_examples import example_record

PROTOCOL = {'model': {'backbone': {'frozen_stages': -1}}, 'batch_size': 4}


def run(folder, seed, ap, more=(), **changes):
    record = example_record()
    record.update({'seed': seed, 'protocol': PROTOCOL} | changes)
    record['metrics']['test'] = {
        'voc/ap50_11point': ap,
        'voc/ap50_area': ap / 2,
        'coco/ap': ap / 4,
        **dict(more),
    }
    folder.mkdir(parents=True)
    record_file.write(folder / 'record.json', record)
    return folder / 'record.json'


def test_mean_and_spread_over_seeds(tmp_path):
    for seed, ap in ((2, 0.7), (0, 0.5), (1, 0.6)):
        run(tmp_path / str(seed), seed, ap)
    (row,) = results_table.rows(results_table.find_records([str(tmp_path)]))
    assert row.seeds == [0, 1, 2]
    assert row.results['voc/ap50_11point'].mean == pytest.approx(0.6)
    assert row.results['voc/ap50_11point'].sd == pytest.approx(0.1)
    assert results_table.percent(row.results['voc/ap50_11point']) == '60.0 ± 10.0'
    assert f'[0]({tmp_path.name}/0/record.json)' in results_table.markdown([row], tmp_path.parent)


def test_one_seed_has_no_spread(tmp_path):
    (row,) = results_table.rows([run(tmp_path / 'a', 0, 0.5)])
    assert row.results['coco/ap'] == results_table.Result(mean=0.125, sd=None, images_interval=None)
    assert results_table.percent(row.results['coco/ap']) == '12.5'


def test_the_interval_over_images_has_its_own_column(tmp_path):
    ends = [
        {'voc/ap50_11point_low95': low, 'voc/ap50_11point_high95': high}
        for low, high in ((0.4, 0.6), (0.5, 0.8))
    ]
    for seed, more in enumerate(ends):
        run(tmp_path / str(seed), seed, 0.55, more=more)
    (row,) = results_table.rows(results_table.find_records([str(tmp_path)]))
    assert row.results['voc/ap50_11point'].images_interval == pytest.approx([0.45, 0.7])
    assert row.results['coco/ap'].images_interval is None
    assert results_table.result_cells(row) == ['55.0 ± 0.0', '45.0 to 70.0', '27.5 ± 0.0', '13.8 ± 0.0']
    assert results_table.markdown([row], tmp_path).splitlines()[2].split(' | ')[5] == '45.0 to 70.0'


def test_short_markdown_has_the_number_of_seeds_and_no_links(tmp_path):
    paths = [run(tmp_path / str(seed), seed, ap) for seed, ap in ((0, 0.5), (1, 0.7))]
    head, _, line = results_table.short_markdown(results_table.rows(paths)).splitlines()
    assert head == (
        '| data | detector | network | initial weights | VOC AP50 (11-point) | COCO AP | network MACs, M | '
        'detector MACs, G | seeds |'
    )
    cells = line.split(' | ')
    assert cells[2] == f'`{example_record()["arch"]}`'
    assert cells[4:] == ['60.0 ± 14.1', '15.0 ± 3.5', '38.0', '6.13e-07', '2 |']


def test_rows_are_sorted_by_either_cost(tmp_path):
    for arch, ap, network, detector in (('a', 0.5, 3, 10), ('b', 0.6, None, 20), ('c', 0.7, 2, 30)):
        costs = example_record()['costs']
        costs['network']['classifier_macs'] = network
        costs['at_input']['total_macs'] = detector
        run(tmp_path / arch, 0, ap, arch=arch, costs=costs)
    paths = results_table.find_records([str(tmp_path)])
    found = [''.join(row.arch for row in results_table.rows(paths, sort)) for sort in results_table.SORTS]
    assert found == ['cba', 'cab', 'abc']
    assert results_table.cost_cells(results_table.rows(paths)[1]) == ['-', '2.00e-08']


def test_archs_and_protocols_are_not_mixed(tmp_path):
    other = dict(PROTOCOL, batch_size=99)
    paths = [
        run(tmp_path / 'a', 0, 0.5),
        run(tmp_path / 'b', 0, 0.6, arch='another'),
        run(tmp_path / 'c', 0, 0.7, protocol=other),
    ]
    table = results_table.rows(paths)
    assert len(table) == 3
    keys = ['arch', 'detector', 'dataset', 'init', 'frozen_stages', 'protocol']
    keys += ['network_macs', 'detector_macs', 'seeds', 'records']
    content = json.loads(json.dumps(results_table.as_json(table)))
    assert all(list(row) == [*keys, *results_table.METRICS] for row in content)
    assert content[0]['coco/ap'] == {'mean': 0.7 / 4, 'sd': None, 'images': None}
    assert [row.results['voc/ap50_11point'].mean for row in table] == [0.7, 0.6, 0.5]
    assert table[1].protocol == table[2].protocol != table[0].protocol
    assert [row.arch for row in table[1:]] == ['another', example_record()['arch']]  # best first


def test_two_runs_with_one_seed_are_an_error(tmp_path):
    paths = [run(tmp_path / 'a', 0, 0.5), run(tmp_path / 'b', 0, 0.6)]
    with pytest.raises(UserError, match='two runs have the same seed'):
        results_table.rows(paths)


def test_a_folder_without_records(tmp_path):
    with pytest.raises(UserError, match=r'no record\.json in it'):
        results_table.find_records([str(tmp_path)])


def test_an_undefined_metric_has_no_value(tmp_path):
    run(tmp_path / 'a', 0, 0.5)
    record = example_record() | {'seed': 1, 'protocol': PROTOCOL, 'arch': 'another'}
    record['metrics']['test'] = {'voc/ap50_11point': None, 'coco/ap': 0.25}
    (tmp_path / 'b').mkdir()
    record_file.write(tmp_path / 'b' / 'record.json', record)
    table = results_table.rows([tmp_path / 'b' / 'record.json', tmp_path / 'a' / 'record.json'])
    assert [row.arch for row in table] == [example_record()['arch'], 'another']
    assert [results_table.percent(result) for result in table[1].results.values()] == [
        '-',
        '-',
        '25.0',
    ]


def test_a_record_with_another_protocol_and_markup_in_a_name(tmp_path, capsys):
    path = run(tmp_path / 'a', 0, 0.5, protocol={'a': 1}, arch='[bold red]z[/x]')
    (row,) = table = results_table.rows([path])
    assert row.frozen_stages == -1
    results_table.show(table)
    assert '[bold' in capsys.readouterr().out


def test_links_to_records_outside_the_folder(tmp_path):
    (tmp_path / 'here').mkdir()
    table = results_table.rows([run(tmp_path / 'there', 0, 0.5)])
    assert '[0](../there/record.json)' in results_table.markdown(table, tmp_path / 'here')
