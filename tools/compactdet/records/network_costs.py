"""Costs of the network of a record, without the detector.

Records from before ``costs.network`` was added do not have them. They are computed from the registered row
of the network, which the record names in ``arch``.
"""

import functools

from compactdet.errors import one_line
from compactdet.records.cost_types import NetworkCosts
from compactdet.records.record_types import Record


def network_costs(record: Record) -> NetworkCosts:
    """Return the costs of the network of a record; computed if the record does not have them."""
    return record['costs'].get('network') or of_arch(record['arch'])


@functools.cache
def of_arch(name: str) -> NetworkCosts:
    """Return the costs of a network; None with the reason if they cannot be computed."""
    from compactdet.costs import arch_costs  # here: loads PyTorch, which reading records does not need

    try:
        costs = arch_costs(name)
    except Exception as error:  # an unknown name, a library that is not installed, an adapted network
        return {
            'size': None,
            'trunk_macs': None,
            'classifier_macs': None,
            'trunk_params': None,
            'classifier_params': None,
            'not_measured': {'classifier_macs': one_line(error)},
        }
    return {
        'size': costs['size'],
        'trunk_macs': costs['backbone_macs'],
        'classifier_macs': costs['macs'],
        'trunk_params': costs['backbone_params'],
        'classifier_params': costs['params'],
    }
