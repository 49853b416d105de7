"""Command-line options of every tool."""

import pytest

from compactdet.arguments import add_format, make_parser


@pytest.mark.parametrize(
    ('words', 'found'),
    [
        ([], 'table'),
        (['--json'], 'json'),
        (['--format', 'json'], 'json'),
        (['--format', 'csv'], 'csv'),
    ],
)
def test_two_ways_to_get_json(words: list[str], found: str) -> None:
    parser = make_parser('Show something.')
    add_format(parser, ['csv'])
    assert parser.parse_args(words).format == found
