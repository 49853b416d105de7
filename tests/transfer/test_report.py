"""The report of the transfer study: sentences and files."""

import json
import re
import xml.etree.ElementTree as ET

import pytest

from compactdet.errors import UserError
from compactdet.transfer import findings
from compactdet.transfer.plots import draw_scatter
from compactdet.transfer.report import escape_markdown, write_report
from compactdet.transfer.sources import ExcludedResult, NetworkResult, Setting, settings_from_published
from compactdet.transfer.study import make_study


def setting(rows, **changes):
    """Return a setting; rows are (accuracy, AP) or (accuracy, AP, cost)."""
    nets = tuple(
        NetworkResult(
            f'n{i}', f'n{i}', 'one', row[0], row[1], None, *(row[2:] or (None,)), (), 1, ('a table',)
        )
        for i, row in enumerate(rows)
    )
    values = dict(
        key='k', title='T', data='d', detector='f', start='ImageNet', frozen=None, figure='coco/ap'
    )
    return Setting(**values | dict(cost='cost', base=None, nets=nets) | changes)


def findings_of(rows):
    (part,) = make_study([setting(rows)], []).settings
    return ' '.join(findings.setting_sentences(part))


@pytest.fixture(scope='module')
def published_study():
    return make_study(*settings_from_published())


@pytest.fixture(scope='module')
def out(published_study, tmp_path_factory):
    folder = tmp_path_factory.mktemp('out') / 'made'
    write_report(published_study, folder)
    return folder


# Sentences


@pytest.mark.parametrize(
    ('rows', 'words'),
    [
        ([(i, i + (i % 3)) for i in range(12)], 'More accurate networks tend to have higher AP'),
        ([(i, (i % 3) - i * 0.9) for i in range(12)], 'More accurate networks tend to have lower AP'),
        ([(i, (i * 5) % 12) for i in range(12)], 'Accuracy and AP are not significantly correlated: ρ'),
        (
            [(0, 0), (1, 1), (2, 2), (3, 3), (4, 5), (5, 4)],
            'is uncertain: ρ = 0.94',
        ),  # the two tests disagree
        ([(i, i) for i in range(7)], 'rank the networks in exactly the same order'),
        ([(i, -i) for i in range(7)], 'in exactly opposite orders'),
        ([(i, i) for i in range(4)], '4 networks are too few for a conclusion'),
        ([(50, i) for i in range(7)], 'is not defined: all networks have the same value'),
    ],
)
def test_sentence_for_the_correlation(rows, words):
    assert words in findings_of(rows)


def test_sentence_for_the_effect_of_cost():
    cheap = [(i, i, 10.0 + (i * 5) % 7) for i in range(12)]
    assert 'At equal cost too, more accurate networks tend to have higher AP' in findings_of(
        [(i, a + (i % 2), cost) for i, (_, a, cost) in enumerate(cheap)]
    )
    explained = [(i + (i % 2) * 1.5, i + (i // 2 % 2) * 1.5, 10.0 + i) for i in range(12)]
    assert 'At equal cost, accuracy and AP are not significantly correlated' in findings_of(explained)
    assert 'the multiply-adds of n0, n1' in findings_of([(i, i) for i in range(6)])


def test_sentence_for_outliers():
    rows = [(60 + i, 30 + 0.5 * i + 0.01 * (i % 3)) for i in range(9)]
    rows[4] = (64, 36)
    text = findings_of(rows)
    assert 'Outliers in the fit of AP on accuracy: n4, 3.' in text
    assert 'points above' in text
    assert 'No network is an outlier in the fit of AP on accuracy' in findings_of(
        [(60 + i, i + i % 2) for i in range(9)]
    )


# Files


def test_every_sentence_is_in_both_reports(published_study, out):
    sentences = findings.pair_sentences(published_study)
    for part in published_study.settings:
        sentences += findings.setting_sentences(part)
    markdown = (out / 'report.md').read_text()
    page = (out / 'report.html').read_text()
    for sentence in sentences:
        assert escape_markdown(sentence) in markdown
        assert sentence in page  # nothing in them needs escaping


def test_study_json_contains_unrounded_values(published_study, out):
    data = json.loads((out / 'study.json').read_text())
    for part, plain in zip(published_study.settings, data['settings'], strict=True):
        assert plain['spearman']['value'] == part.spearman.value
        assert plain['nets'][0]['accuracy'] == part.nets[0].accuracy
    assert data['pairs']['total'] == published_study.pairs.total


def test_the_html_page_loads_nothing(out):
    page = (out / 'report.html').read_text()
    assert not re.search(r'<script|<link|<img|@import|(?:src|href)="(?:https?:)?//', page)
    ids = re.findall(r'<(?!path|clipPath)\w+ id="', page)
    assert ids == []
    assert page.count('<svg') == page.count('role="img"') == 3  # settings of three networks or more


def test_plots_are_complete_and_repeatable(published_study, out):
    assert len(list(out.glob('scatter_*.png'))) == len(published_study.settings)
    again = draw_scatter(published_study.settings[0])
    assert again['png'] == (out / 'scatter_1.png').read_bytes()
    assert again['svg'] == (out / 'scatter_1.svg').read_bytes()
    text = ' '.join(ET.fromstring(again['svg']).itertext())
    assert all(network.name in text for network in published_study.settings[0].nets)


def test_names_with_markup_are_escaped(tmp_path):
    names = ('<script>alert(1)</script>', 'a|b', '$\\frac{', '[x](y)', 'line\nbreak\x07')
    rows = [(50 + i, 20 + i) for i in range(5)]
    nets = tuple(
        NetworkResult(
            name, name, name, float(a), float(ap), None, 1.0, (0,), 1, (f'{tmp_path}/{i} "x"/record.json',)
        )
        for i, (name, (a, ap)) in enumerate(zip(names, rows, strict=True))
    )
    hostile = setting([], nets=nets, title=names[0])
    made = make_study([hostile], [ExcludedResult(names[0], names[1])])
    write_report(made, tmp_path)
    page = (tmp_path / 'report.html').read_text()
    assert '<script' not in page
    assert '%22x%22/record.json">' in page
    ET.fromstring((tmp_path / 'scatter_1.svg').read_bytes())
    markdown = (tmp_path / 'report.md').read_text()
    assert '<script' not in re.sub(r'\\<', '', markdown)
    tables = [line for line in markdown.splitlines() if line.startswith('| ')]
    assert {len(re.findall(r'(?<!\\)\|', line)) for line in tables[:7]} == {9}
    assert r'\[x\](y)' in markdown


def test_labels_are_omitted_if_there_is_no_space():
    rows = [(50 + (i * 7 % 40) / 2, 20 + (i * 11 % 40) / 2, 1.0) for i in range(40)]
    (part,) = make_study([setting(rows)], []).settings
    svg = draw_scatter(part)['svg'].decode()
    assert 15 < len(re.findall(r'>n\d+</text>', svg)) <= 40


def test_out_that_is_a_file(tmp_path, published_study):
    (tmp_path / 'out').write_text('mine')
    with pytest.raises(UserError, match=r'report\.html cannot be written'):
        write_report(published_study, tmp_path / 'out')
    assert (tmp_path / 'out').read_text() == 'mine'
