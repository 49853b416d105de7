"""The transfer study: settings from records and papers, contrasts, errors, and the tool."""

import json
import re
from pathlib import Path

import pytest

from compactdet.errors import UserError
from compactdet.leaderboard import published
from compactdet.records import record_file
from compactdet.transfer import findings
from compactdet.transfer.sources import (
    settings_from_published,
    settings_from_records,
)
from compactdet.transfer.study import make_study

EXAMPLE = Path(__file__).parents[2] / 'work_dirs_template' / 'bccd_imagenet_seed0' / 'record.json'
PROTOCOL = {'model': {'backbone': {'frozen_stages': -1}}, 'init': 'ImageNet', 'batch_size': 4}
ACCURACIES = {'a_1x': 50.0, 'a_2x': 60.0, 'b_1x': 55.0, 'b_2x': 65.0, 'c_1x': 58.0, 'c_2x': 70.0}
COSTS = {'a_1x': 10, 'a_2x': 40, 'b_1x': 12, 'b_2x': 42, 'c_1x': 11, 'c_2x': 45}


def run(folder, arch='a_1x', ap=0.3, seed=0, start='ImageNet', frozen=-1, data='BCCD', **init):
    """Write the record of a run; ``init`` holds facts of the weights file: top1, recipe, sha256."""
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
    """Write a run of each network; AP has the order of accuracy except for two networks."""
    aps = {'a_1x': 0.30, 'b_1x': 0.33, 'c_1x': 0.32, 'a_2x': 0.36, 'b_2x': 0.39, 'c_2x': 0.44}
    return [run(folder / arch, arch, ap + gain, **same) for arch, ap in aps.items()]


def study(paths, metric='coco/ap'):
    return make_study(*settings_from_records(paths, metric))


@pytest.fixture(scope='module')
def published_study():
    return make_study(*settings_from_published())


# Published results


def test_accuracy_and_ap_are_of_the_same_paper(published_study):
    (voc,) = [part for part in published_study.settings if part.setting.data == 'VOC 2007']
    assert {network.name: (network.accuracy, network.ap, network.cost) for network in voc.nets} == {
        'mobilenet_0.5x': (64.74, 54.8, 149),
        'shufflenet_1x_g3': (65.69, 56.6, 137),
        'menet_352_12x1_g8': (66.69, 58.9, 144),
        'mobilenet_1x': (70.73, 62.4, 569),
        'shufflenet_2x_g3': (70.79, 63.5, 524),
        'menet_456_24x1_g3': (71.6, 65.5, 551),
    }  # arXiv:1803.09127, Tables VIII and IV
    assert voc.spearman.value == 1
    assert voc.chance == pytest.approx(2 / 720)


def test_settings_are_the_papers_tables(published_study):
    sizes = {part.setting.key: len(part.nets) for part in published_study.settings}
    assert sizes['arXiv:2104.04382 coco_frcnn_fpn'] == 8
    assert sizes['arXiv:2104.04382 coco_retinanet'] == 3
    counted = sum(n * (n - 1) // 2 for n in sizes.values())
    assert published_study.pairs.total <= counted  # no pair spans two settings


def test_quoted_scores_are_excluded(published_study):
    quoted = [row for row in published.load().results('detection') if row.quoted]
    assert quoted
    for row in quoted:
        assert any(row.model in item.what for item in published_study.left_out)


def test_one_paper_against_another(published_study):
    found = [agreement for agreement in published_study.agreements if 'data' in agreement.differ]
    for agreement in found:
        assert set(agreement.nets) == {'mobilenet_1x', 'shufflenet_1x_g3', 'shufflenet_2x_g3'}
        assert agreement.spearman.low is None  # three networks
        assert 'too few' in findings.agreement_sentence(agreement)
    assert len(found) == 2


# Own runs


def test_correlations_of_runs_computed_by_hand(tmp_path):
    (part,) = study(runs(tmp_path)).settings
    assert [network.name for network in part.nets] == sorted(ACCURACIES)
    assert [network.accuracy for network in part.nets] == [
        ACCURACIES[network.name] for network in part.nets
    ]
    assert part.spearman.value == pytest.approx(1 - 6 * 2 / (6 * 35))
    assert part.kendall.value == pytest.approx(13 / 15)
    assert [(w.family, w.rho.n) for w in part.without] == [('A', 4), ('B', 4), ('C', 4)]
    assert part.without[1].rho.value == 1  # without b_1x the order is perfect
    assert part.cost.ap.value == pytest.approx(part.cost.accuracy.value - 0, abs=0.1)


def test_seeds_are_averaged(tmp_path):
    paths = [run(tmp_path / str(seed), 'a_1x', ap, seed) for seed, ap in enumerate((0.2, 0.3, 0.4))]
    (part,) = study([*paths, run(tmp_path / 'b', 'b_1x', 0.5)]).settings
    network = part.nets[0]
    assert (network.ap, network.spread, network.seeds) == (pytest.approx(30), pytest.approx(10), (0, 1, 2))


def test_weights_are_averaged_only_within_a_recipe(tmp_path):
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


def test_another_metric(tmp_path):
    (part,) = study(runs(tmp_path), 'voc/ap50_11point').settings
    assert part.nets[0].ap == pytest.approx(45)
    with pytest.raises(
        UserError, match=r'--figure coco/app: no record has this metric; use one of coco/ap, voc/'
    ):
        study(runs(tmp_path / 'more'), 'coco/app')


def test_agreement_of_data_sets(tmp_path):
    made = study(runs(tmp_path / 'a') + runs(tmp_path / 'b', 0.1, data='shapes'))
    (agreement,) = made.agreements
    assert agreement.differ == ('data',)
    assert agreement.spearman.value == 1
    assert findings.unanswered_questions(made)[-1].startswith('Fine-tuned')


def test_contrast_of_pretrained_and_random_weights(tmp_path):
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
    assert '+10.0 [+10.0, +10.0] points (positive); 6 of 6 networks have a higher AP pretrained' in first


def test_contrast_of_fine_tuned_and_frozen_stages(tmp_path):
    made = study(runs(tmp_path / 'a', frozen=2) + runs(tmp_path / 'b', 0.05)[:4])
    (contrast,) = made.contrasts
    assert contrast.kind == 'freezing'
    assert 'frozen' in contrast.b
    assert len(contrast.nets) == 4
    assert contrast.gain.value == pytest.approx(5)


def test_settings_that_differ_in_two_respects_are_no_contrast(tmp_path):
    paths = runs(tmp_path / 'a') + runs(tmp_path / 'b', start='none', data='shapes')
    paths += runs(tmp_path / 'c', frozen=2, data='other')
    assert not study(paths).contrasts


# Errors


def test_weights_that_state_no_accuracy_are_excluded(tmp_path):
    paths = runs(tmp_path)
    paths += [run(tmp_path / 'x', 'x_1x', top1=None), run(tmp_path / 'y', 'y_1x', top1=0.56)]
    made = study(paths)
    assert len(made.settings[0].nets) == 6
    first, second = made.left_out
    assert 'x/record.json' in first.what
    assert 'state no top-1 accuracy' in first.why
    assert '0.56' in second.why


def test_runs_without_the_metric_are_excluded(tmp_path):
    made = study([*runs(tmp_path), run(tmp_path / 'x', 'x_1x', None)])
    assert [item.why for item in made.left_out] == ['no metric coco/ap of its test split']


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (
            lambda f: [run(f / 'a'), run(f / 'b', seed=1)],
            r'only one network \(a_1x\); a study needs 5 or more',
        ),
        (lambda f: [run(f / 'a'), run(f / 'b', start='none')], r'only one network \(a_1x\)'),
        (
            lambda f: [run(f / 'a', start='none'), run(f / 'b', 'b_1x', start='none')],
            'no two of the 2 networks have a known accuracy',
        ),
        (
            lambda f: [run(f / 'a', top1=None), run(f / 'b', 'b_1x', top1=None)],
            r'excluded: .*a/record\.json',
        ),
        (
            lambda f: [run(f / 'a', data='x'), run(f / 'b', 'b_1x', data='y')],
            'no two of the 2 networks have',
        ),
        (lambda f: [run(f / 'a'), run(f / 'b')], 'two records of the same run'),
        (lambda f: [run(f / 'a', ap=None)], 'no run can be studied'),
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
def test_results_that_cannot_be_studied(tmp_path, make, message):
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
    assert '## Pretrained and random weights' in report
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
