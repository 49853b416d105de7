"""Costs of the network alone: in records, and computed for records without them."""

import json
from pathlib import Path

from compactdet.records import record_file, results_table
from compactdet.records.network_costs import network_costs

from record_examples import NETWORK, example_record

ROOT = Path(__file__).parents[2]
GOLDEN = {
    row['arch']: row
    for row in json.loads((ROOT / 'tests/golden/complexity.json').read_text(encoding='utf-8'))
}


def test_a_record_without_them_gets_those_of_its_network():
    record = example_record()
    assert network_costs(record) == NETWORK
    del record['costs']['network']
    row = GOLDEN[record['arch']]
    assert network_costs(record) == {
        'size': 224,
        'trunk_macs': row['backbone_macs'],
        'classifier_macs': row['macs'],
        'trunk_params': row['backbone_params'],
        'classifier_params': row['params'],
    }
    unknown = network_costs(record | {'arch': 'no_such_network'})
    assert unknown['classifier_macs'] is None
    assert 'no_such_network' in unknown['not_measured']['classifier_macs']


def test_a_network_costs_the_same_in_every_committed_record():
    for path in results_table.find_records([str(ROOT / 'work_dirs_template')]):
        record = record_file.read(path)
        costs, row = record['costs'], GOLDEN[record['arch']]
        assert costs['network']['classifier_macs'] == row['macs'], path
        assert costs['network']['trunk_macs'] == row['backbone_macs'], path
        trunk = costs['at_224']['backbone_macs'] - costs['at_224']['neck_macs']
        c4 = record['detector'] == 'frcnn_c4'  # its backbone ends at stride 16
        assert trunk < row['backbone_macs'] if c4 else trunk == row['backbone_macs'], path
