"""The content of a ``latency.json`` as a table on the console."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

from compactdet.console import print_fitting
from compactdet.deploy import latency_file

HEADS = (
    'network', 'backend', 'threads', 'size', 'median', '95 %', 'p90', 'p99', 'ratio', '95 % ', 'MB', 'mJ',
)  # fmt: skip
NOT_ON_NARROW = ('p90', 'p99', '95 % ', 'MB', 'mJ')  # columns that a terminal of 80 columns has no room for


def show(value: Mapping[str, Any]) -> None:
    """Print the results, the machine, and why they are not usable, if they are not."""
    hardware, load = value['hardware'], value['load']
    print_fitting(
        [_table(value, HEADS), _table(value, [head for head in HEADS if head not in NOT_ON_NARROW])]
    )
    print(f'{hardware["cpu"]}, {hardware["cores"]} cores; {value["rounds"]} interleaved rounds')
    if value['reference'] and any(result['ratio'] for result in value['results']):
        print(f'ratio: latency over that of {value["reference"]} in the same rounds')
    print(
        f'other processes: {_number(load["other_cores"], ".2f")} cores; taken by the hypervisor: '
        f'{_number(load["stolen_share"], ".1%")}; throttled: {_number(load["throttled"], "d")}'
    )
    uncertain = sum(latency_file.is_uncertain(result, value['limits']) for result in value['results'])
    if uncertain:
        print(
            f'?: {uncertain} of {len(value["results"])} medians are uncertain by more than '
            f'{value["limits"]["interval"]:.0%}; more --rounds narrow their intervals'
        )
    for problem in value['problems']:
        print(f'not usable: {problem}')


def _table(value: Mapping[str, Any], heads: Sequence[str]) -> Table:
    """Return the results as a table of some of the columns ``HEADS``."""
    table = Table(
        box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title='Latency of one inference in milliseconds'
    )
    for head in heads:
        table.add_column(head, justify='left' if head in HEADS[:2] else 'right', no_wrap=True)
    for result in value['results']:
        median, ratio = result['median_ms'], result['ratio']
        cells = (
            result['name'],
            result['backend'],
            str(result['threads']),
            'x'.join(map(str, result['size'])) + (f' x {result["batch"]}' if result['batch'] > 1 else ''),
            f'{median["value"]:.2f}' + (' ?' if latency_file.is_uncertain(result, value['limits']) else ''),
            f'{median["low95"]:.2f} to {median["high95"]:.2f}',
            f'{result["p90_ms"]:.2f}',
            _number(result['p99_ms'], '.2f'),
            '1' if ratio is None else f'{ratio["value"]:.3f}',
            '-' if ratio is None else f'{ratio["low95"]:.3f} to {ratio["high95"]:.3f}',
            _number(result['memory_mb'], '.0f'),
            _number(result['energy_mj'], '.1f'),
        )
        table.add_row(*(cell for head, cell in zip(HEADS, cells, strict=True) if head in heads))
    return table


def _number(value: float | None, form: str) -> str:
    return '-' if value is None else format(value, form)
