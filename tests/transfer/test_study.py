"""The transfer study: what is compared with what, what is said of it, and the files."""

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from compactdet.errors import UserError
from compactdet.leaderboard import published
from compactdet.records import record_file
from compactdet.transfer import findings, plots
from compactdet.transfer import report as transfer_report
from compactdet.transfer import sources as sources
from compactdet.transfer import study as transfer
from compactdet.transfer.sources import LeftOut, Net, Setting

EXAMPLE = Path(__file__).parents[2] / 'work_dirs_template' / 'bccd_imagenet_seed0' / 'record.json'
PROTOCOL = {'model': {'backbone': {'frozen_stages': -1}}, 'init': 'ImageNet', 'batch_size': 4}
ACCURACIES = {'a_1x': 50.0, 'a_2x': 60.0, 'b_1x': 55.0, 'b_2x': 65.0, 'c_1x': 58.0, 'c_2x': 70.0}
COSTS = {'a_1x': 10, 'a_2x': 40, 'b_1x': 12, 'b_2x': 42, 'c_1x': 11, 'c_2x': 45}


def run(folder, arch='a_1x', ap=0.3, seed=0, start='ImageNet', frozen=-1, data='BCCD', **init):
    """Writes the record of a run; ``init`` says what the weights file states: top1, recipe, sha256."""
    record = json.loads(EXAMPLE.read_text())
    backbone = {'backbone': {'frozen_stages': frozen}}
    record.update(arch=arch, family=arch[0].upper(), seed=seed, detector='frcnn_c4')
    record['protocol'] = {**PROTOCOL, 'model': backbone, 'init': start, 'data': data}
    record['dataset']['name'] = data
    record['init']['class'] = start
    if start == 'none':
        record['init'].update(file=None, sha256=None, pretraining=None)
    else:
        top1 = init.get('top1', ACCURACIES.get(arch, 40.0))
        record['init']['sha256'] = init.get('sha256', record_file.text_sha256(arch))
        record['init']['pretraining'] = dict(data=start, recipe=init.get('recipe'), top1=top1, top5=None)
    record['costs']['at_input']['total_macs'] = COSTS.get(arch, 50) * 10**6
    record['metrics']['test'] = {'coco/ap': ap, 'voc/ap50_11point': None if ap is None else 1.5 * ap}
    folder.mkdir(parents=True)
    record_file.write(folder / 'record.json', record)
    return folder / 'record.json'


def runs(folder, gain=0.0, **same):
    """A run of each network: AP in the order of accuracy but for two that are swapped."""
    aps = {'a_1x': 0.30, 'b_1x': 0.33, 'c_1x': 0.32, 'a_2x': 0.36, 'b_2x': 0.39, 'c_2x': 0.44}
    return [run(folder / arch, arch, ap + gain, **same) for arch, ap in aps.items()]


def study(paths, figure='coco/ap'):
    return transfer.make_study(*sources.from_records(paths, figure))


def setting(rows, **changes):
    """A setting of (accuracy, AP) or (accuracy, AP, cost)."""
    nets = tuple(
        Net(f'n{i}', f'n{i}', 'one', row[0], row[1], None, *(row[2:] or (None,)), (), 1, ('a table',))
        for i, row in enumerate(rows)
    )
    values = dict(
        key='k', title='T', data='d', detector='f', start='ImageNet', frozen=None, figure='coco/ap'
    )
    return Setting(**values | dict(cost='cost', base=None, nets=nets) | changes)


def said(rows):
    (part,) = transfer.make_study([setting(rows)], []).settings
    return ' '.join(findings.setting_sentences(part))


@pytest.fixture(scope='module')
def printed():
    return transfer.make_study(*sources.from_published())


@pytest.fixture(scope='module')
def out(printed, tmp_path_factory):
    folder = tmp_path_factory.mktemp('out') / 'made'
    transfer_report.write(printed, folder)
    return folder


# Published figures


def test_published_figures_are_joined_within_a_paper(printed):
    (voc,) = [part for part in printed.settings if part.setting.data == 'VOC 2007']
    assert {net.name: (net.accuracy, net.ap, net.cost) for net in voc.nets} == {
        'mobilenet_0.5x': (64.74, 54.8, 149),
        'shufflenet_1x_g3': (65.69, 56.6, 137),
        'menet_352_12x1_g8': (66.69, 58.9, 144),
        'mobilenet_1x': (70.73, 62.4, 569),
        'shufflenet_2x_g3': (70.79, 63.5, 524),
        'menet_456_24x1_g3': (71.6, 65.5, 551),
    }  # arXiv:1803.09127, Tables VIII and IV
    assert voc.spearman.value == 1
    assert voc.chance == pytest.approx(2 / 720)


def test_settings_are_the_papers_tables(printed):
    sizes = {part.setting.key: len(part.nets) for part in printed.settings}
    assert sizes['arXiv:2104.04382 coco_frcnn_fpn'] == 8
    assert sizes['arXiv:2104.04382 coco_retinanet'] == 3
    counted = sum(n * (n - 1) // 2 for n in sizes.values())
    assert printed.pairs.total <= counted  # no pair spans two settings


def test_quoted_scores_are_left_out(printed):
    quoted = [row for row in published.load().results('detection') if row.quoted]
    assert quoted
    for row in quoted:
        assert any(row.model in item.what for item in printed.left_out)


def test_one_paper_against_another(printed):
    found = [agreement for agreement in printed.agreements if 'data' in agreement.differ]
    for agreement in found:
        assert set(agreement.nets) == {'mobilenet_1x', 'shufflenet_1x_g3', 'shufflenet_2x_g3'}
        assert agreement.spearman.low is None  # three networks
        assert 'too few' in findings.agreement_sentence(agreement)
    assert len(found) == 2


# Own runs


def test_runs_by_hand(tmp_path):
    (part,) = study(runs(tmp_path)).settings
    assert [net.name for net in part.nets] == sorted(ACCURACIES)
    assert [net.accuracy for net in part.nets] == [ACCURACIES[net.name] for net in part.nets]
    assert part.spearman.value == pytest.approx(1 - 6 * 2 / (6 * 35))
    assert part.kendall.value == pytest.approx(13 / 15)
    assert [(w.family, w.rho.n) for w in part.without] == [('A', 4), ('B', 4), ('C', 4)]
    assert part.without[1].rho.value == 1  # without b_1x the order is perfect
    assert part.cost.ap.value == pytest.approx(part.cost.accuracy.value - 0, abs=0.1)


def test_seeds_are_averaged(tmp_path):
    paths = [run(tmp_path / str(seed), 'a_1x', ap, seed) for seed, ap in enumerate((0.2, 0.3, 0.4))]
    (part,) = study([*paths, run(tmp_path / 'b', 'b_1x', 0.5)]).settings
    net = part.nets[0]
    assert (net.ap, net.spread, net.seeds) == (pytest.approx(30), pytest.approx(10), (0, 1, 2))


def test_weights_of_one_recipe_are_averaged_those_of_two_are_not(tmp_path):
    paths = [
        run(tmp_path / '1', 'a_1x', 0.2, top1=50, recipe='r', sha256='1' * 64),
        run(tmp_path / '2', 'a_1x', 0.4, top1=52, recipe='r', sha256='2' * 64),
        run(tmp_path / '3', 'a_1x', 0.6, top1=70, recipe='s', sha256='3' * 64),
    ]
    (part,) = study(paths).settings
    first, second = part.nets
    assert (first.name, first.accuracy, first.weights, first.ap) == ('a_1x #1', 51, 2, pytest.approx(30))
    assert (second.name, second.accuracy, second.note) == ('a_1x #2', 70, 'recipe: s')


def test_protocols_are_grouped_not_pooled(tmp_path):
    paths = runs(tmp_path / 'a') + runs(tmp_path / 'b', -0.2, start='CIFAR-10')
    made = study(paths)
    assert [len(part.nets) for part in made.settings] == [6, 6]
    assert {part.setting.start for part in made.settings} == {'ImageNet', 'CIFAR-10'}
    assert (made.pairs.agree, made.pairs.total, made.pairs.share.n) == (28, 30, 6)


def test_another_figure(tmp_path):
    (part,) = study(runs(tmp_path), 'voc/ap50_11point').settings
    assert part.nets[0].ap == pytest.approx(45)
    with pytest.raises(UserError, match=r'--figure coco/app: no record has it; they have coco/ap, voc/'):
        study(runs(tmp_path / 'more'), 'coco/app')


def test_data_sets_are_compared_by_their_order(tmp_path):
    made = study(runs(tmp_path / 'a') + runs(tmp_path / 'b', 0.1, data='shapes'))
    (agreement,) = made.agreements
    assert agreement.differ == ('data',)
    assert agreement.spearman.value == 1
    assert findings.absent(made)[-1].startswith('Frozen')


def test_pretrained_against_random_weights(tmp_path):
    made = study(runs(tmp_path / 'a', 0.1) + runs(tmp_path / 'b', start='none'))
    (contrast,) = made.contrasts
    assert contrast.kind == 'pretraining'
    assert contrast.nets[0] == ('a_1x', pytest.approx(40), pytest.approx(30))
    assert contrast.gain.value == pytest.approx(10)
    assert contrast.rho_b.value == pytest.approx(contrast.rho_a.value)
    assert contrast.rho_a.value == made.settings[0].spearman.value
    assert len(made.settings) == 1  # random weights have no accuracy of their own
    assert not made.agreements
    first = findings.contrast_sentences(contrast)[0]
    assert '+10.0 points of AP on average [+10.0, +10.0] (a gain), 6 of 6 networks better' in first


def test_frozen_against_fine_tuned(tmp_path):
    made = study(runs(tmp_path / 'a', frozen=2) + runs(tmp_path / 'b', 0.05)[:4])
    (contrast,) = made.contrasts
    assert contrast.kind == 'freezing'
    assert 'frozen' in contrast.b
    assert len(contrast.nets) == 4
    assert contrast.gain.value == pytest.approx(5)


def test_what_differs_in_more_is_no_contrast(tmp_path):
    paths = runs(tmp_path / 'a') + runs(tmp_path / 'b', start='none', data='shapes')
    paths += runs(tmp_path / 'c', frozen=2, data='other')
    assert not study(paths).contrasts


# What cannot be studied


def test_weights_that_state_no_accuracy_are_named(tmp_path):
    paths = runs(tmp_path)
    paths += [run(tmp_path / 'x', 'x_1x', top1=None), run(tmp_path / 'y', 'y_1x', top1=0.56)]
    made = study(paths)
    assert len(made.settings[0].nets) == 6
    first, second = made.left_out
    assert 'x/record.json' in first.what
    assert 'state no top-1 accuracy' in first.why
    assert '0.56' in second.why


def test_undefined_figures_are_named(tmp_path):
    made = study([*runs(tmp_path), run(tmp_path / 'x', 'x_1x', None)])
    assert [item.why for item in made.left_out] == ['no figure coco/ap on its test split']


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (
            lambda f: [run(f / 'a'), run(f / 'b', seed=1)],
            r'only one network \(a_1x\): a study compares networks',
        ),
        (lambda f: [run(f / 'a'), run(f / 'b', start='none')], r'only one network \(a_1x\)'),
        (
            lambda f: [run(f / 'a', start='none'), run(f / 'b', 'b_1x', start='none')],
            'no two of the 2 networks',
        ),
        (
            lambda f: [run(f / 'a', top1=None), run(f / 'b', 'b_1x', top1=None)],
            r'left out: .*a/record\.json',
        ),
        (
            lambda f: [run(f / 'a', data='x'), run(f / 'b', 'b_1x', data='y')],
            'no two of the 2 networks share',
        ),
        (lambda f: [run(f / 'a'), run(f / 'b')], 'two runs have the same seed would count twice'),
        (lambda f: [run(f / 'a', ap=None)], 'no run that can be studied'),
    ],
    ids=[
        'one network',
        'one network in two settings',
        'random weights',
        'no accuracy',
        'apart',
        'twice',
        'nothing',
    ],
)
def test_refused(tmp_path, make, message):
    with pytest.raises(UserError, match=message):
        study(make(tmp_path))


# The tool


def test_tool_on_own_runs(tmp_path, run_tool):
    runs(tmp_path / 'runs', 0.1)
    runs(tmp_path / 'scratch', start='none')
    status, text, err = run_tool(
        'transfer', tmp_path / 'runs', tmp_path / 'scratch', '--out', tmp_path / 'out'
    )
    assert (status, err) == (0, '')
    assert 'n = 6' in text
    names = {path.name for path in (tmp_path / 'out').iterdir()}
    assert names == {'report.html', 'report.md', 'study.json', 'scatter_1.png', 'scatter_1.svg'}
    report = (tmp_path / 'out' / 'report.md').read_text()
    assert '[seed 0](../runs/a_1x/record.json)' in report
    assert '## Pretrained against random weights' in report
    assert '| COCO AP, % | multiply-adds, M |' in report
    page = (tmp_path / 'out' / 'report.html').read_text()
    assert '<th scope="col" class="number">value and interval</th>' in page  # with an interval or without
    assert '<th scope="col">family</th>' in page


@pytest.mark.parametrize(
    ('content', 'message'), [('{', 'not a JSON file'), ('{}', r'record\.json: \$: missing key')]
)
def test_tool_refuses_a_broken_record(tmp_path, run_tool, content, message):
    runs(tmp_path / 'runs')
    (tmp_path / 'runs' / 'bad').mkdir()
    (tmp_path / 'runs' / 'bad' / 'record.json').write_text(content)
    status, _, err = run_tool('transfer', tmp_path / 'runs', '--out', tmp_path / 'out')
    assert status == 1
    assert re.search(message, err)
    assert err.count('\n') == 1
    assert not (tmp_path / 'out').exists()


def test_tool_without_runs(tmp_path, run_tool):
    (tmp_path / 'empty').mkdir()
    assert run_tool('transfer', '--out', tmp_path / 'out')[0] == 2
    status, _, err = run_tool('transfer', tmp_path / 'empty', '--out', tmp_path / 'out')
    assert (status, err.count('\n')) == (1, 1)
    assert 'no record.json in it' in err


def test_out_that_is_a_file(tmp_path, printed):
    (tmp_path / 'out').write_text('mine')
    with pytest.raises(UserError, match=r'report\.html cannot be written'):
        transfer_report.write(printed, tmp_path / 'out')
    assert (tmp_path / 'out').read_text() == 'mine'


# Sentences


@pytest.mark.parametrize(
    ('rows', 'words'),
    [
        ([(i, i + (i % 3)) for i in range(12)], 'More accurate networks tend to have higher AP'),
        ([(i, (i % 3) - i * 0.9) for i in range(12)], 'More accurate networks tend to have lower AP'),
        ([(i, (i * 5) % 12) for i in range(12)], 'A relation of accuracy and AP is not shown'),
        (
            [(0, 0), (1, 1), (2, 2), (3, 3), (4, 5), (5, 4)],
            'is uncertain: ρ = 0.94',
        ),  # the two tests disagree
        ([(i, i) for i in range(7)], 'Accuracy orders the networks exactly as AP'),
        ([(i, -i) for i in range(7)], 'exactly opposite to AP'),
        ([(i, i) for i in range(4)], '4 networks are too few for a statement'),
        ([(50, i) for i in range(7)], 'cannot be correlated: all networks are equal'),
    ],
)
def test_the_correlation_is_said_by_its_interval(rows, words):
    assert words in said(rows)


def test_the_cost_is_said_by_its_interval():
    cheap = [(i, i, 10.0 + (i * 5) % 7) for i in range(12)]
    assert 'Also at equal cost, more accurate networks tend to have higher AP' in said(
        [(i, a + (i % 2), cost) for i, (_, a, cost) in enumerate(cheap)]
    )
    explained = [(i + (i % 2) * 1.5, i + (i // 2 % 2) * 1.5, 10.0 + i) for i in range(12)]
    assert 'At equal cost a relation is not shown' in said(explained)
    assert 'the multiply-adds of n0, n1' in said([(i, i) for i in range(6)])


def test_the_net_that_stands_out_is_named():
    rows = [(60 + i, 30 + 0.5 * i + 0.01 * (i % 3)) for i in range(9)]
    rows[4] = (64, 36)
    text = said(rows)
    assert 'Differs from what accuracy predicts: n4, 3.' in text
    assert 'points better' in text
    assert 'No network differs clearly from what accuracy predicts' in said(
        [(60 + i, i + i % 2) for i in range(9)]
    )


# Files


def test_every_sentence_is_in_both_reports(printed, out):
    sentences = findings.pair_sentences(printed)
    for part in printed.settings:
        sentences += findings.setting_sentences(part)
    markdown = (out / 'report.md').read_text()
    page = (out / 'report.html').read_text()
    for sentence in sentences:
        assert transfer_report._escape(sentence) in markdown
        assert sentence in page  # nothing in them needs escaping


def test_study_json_holds_the_figures_unrounded(printed, out):
    data = json.loads((out / 'study.json').read_text())
    for part, plain in zip(printed.settings, data['settings'], strict=True):
        assert plain['spearman']['value'] == part.spearman.value
        assert plain['nets'][0]['accuracy'] == part.nets[0].accuracy
    assert data['pairs']['total'] == printed.pairs.total


def test_the_page_needs_nothing_else(out):
    page = (out / 'report.html').read_text()
    assert not re.search(r'<script|<link|<img|@import|(?:src|href)="(?:https?:)?//', page)
    ids = re.findall(r'<(?!path|clipPath)\w+ id="', page)
    assert ids == []
    assert page.count('<svg') == page.count('role="img"') == 3  # settings of three networks or more


def test_pictures_are_whole_and_the_same_twice(printed, out):
    assert len(list(out.glob('scatter_*.png'))) == len(printed.settings)
    again = plots.scatter(printed.settings[0])
    assert again['png'] == (out / 'scatter_1.png').read_bytes()
    assert again['svg'] == (out / 'scatter_1.svg').read_bytes()
    text = ' '.join(ET.fromstring(again['svg']).itertext())
    assert all(net.name in text for net in printed.settings[0].nets)


def test_hostile_names_stay_text(tmp_path):
    names = ('<script>alert(1)</script>', 'a|b', '$\\frac{', '[x](y)', 'line\nbreak\x07')
    rows = [(50 + i, 20 + i) for i in range(5)]
    nets = tuple(
        Net(name, name, name, float(a), float(ap), None, 1.0, (0,), 1, (f'{tmp_path}/{i} "x"/record.json',))
        for i, (name, (a, ap)) in enumerate(zip(names, rows, strict=True))
    )
    hostile = setting([], nets=nets, title=names[0])
    made = transfer.make_study([hostile], [LeftOut(names[0], names[1])])
    transfer_report.write(made, tmp_path)
    page = (tmp_path / 'report.html').read_text()
    assert '<script' not in page
    assert '%22x%22/record.json">' in page
    ET.fromstring((tmp_path / 'scatter_1.svg').read_bytes())
    markdown = (tmp_path / 'report.md').read_text()
    assert '<script' not in re.sub(r'\\<', '', markdown)
    tables = [line for line in markdown.splitlines() if line.startswith('| ')]
    assert {len(re.findall(r'(?<!\\)\|', line)) for line in tables[:7]} == {9}
    assert r'\[x\](y)' in markdown


def test_many_nets_never_cover_each_others_names():
    rows = [(50 + (i * 7 % 40) / 2, 20 + (i * 11 % 40) / 2, 1.0) for i in range(40)]
    (part,) = transfer.make_study([setting(rows)], []).settings
    svg = plots.scatter(part)['svg'].decode()
    assert 15 < len(re.findall(r'>n\d+</text>', svg)) <= 40
