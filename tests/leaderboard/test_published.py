"""The published figures: everything that can be recomputed is, and nothing counts twice."""

import json
from collections import Counter
from pathlib import Path

import pytest

from backbones import get_arch, list_archs
from compactdet.errors import UserError
from compactdet.leaderboard import published

DATA = published.load()
ARCHS = set(list_archs())


def rows(paper: str, table: str, model: str) -> list[published.Row]:
    id = next(p.id for p in DATA.papers.values() if p.name == paper)
    return [r for r in DATA.rows if (r.paper, r.table) == (id, table) and r.model.startswith(model)]


def test_every_printed_row_is_there():
    # 304 lines of tables; the six of ShuffleNet's Table 3 hold two results each.
    assert len(DATA.rows) == 304 + 6
    assert Counter(DATA.papers[row.paper].name for row in DATA.rows) == {
        'MENet': 54, 'GM-Net': 64, 'ShuffleNet': 71 + 6, 'CondenseNetV2': 115,
    }  # fmt: skip


@pytest.mark.shared
def test_figures_are_those_of_the_transcript(shared):
    """Each figure of an independent transcript of the papers is here, corrected or as printed."""
    seen = Counter()
    for row in DATA.rows:
        old = {**{k: getattr(row, k) for k in ('mflops', 'params_m', 'ap', 'top1', 'top5')}, **row.printed}
        errors = (row.printed.get('top1_err', row.top1_err), row.top5_err)
        figures = (old[k] for k in ('mflops', 'params_m', 'ap', 'top1', 'top5'))
        seen[(row.table, *figures, *errors)] += 1
    transcript = json.loads((shared / 'facts' / 'published.json').read_text())['rows']
    for row in transcript:
        extra = row['extra'] or {}
        figures = (row['flops_m'], row['params_m'], row['map'], extra.get('acc1'), extra.get('acc5'))
        key = (row['table'], *figures, row['top1_err'], row['top5_err'])
        assert seen[key], row
        seen[key] -= 1


def test_families_are_those_of_the_networks():
    archs = {row.arch for row in DATA.rows if row.arch}
    assert DATA.families == {arch: get_arch(arch).family for arch in archs}


def test_accuracy_and_error_make_100():
    (row,) = rows('CondenseNetV2', '3', 'CondenseNetV2-A')
    assert (row.top1, row.top1_err, row.top1_accuracy, row.top5_accuracy) == (None, 35.6, 64.4, 84.2)
    (row,) = rows('MENet', 'VI', '228-MENet-12x2.5')
    assert (row.top1, row.top1_accuracy, row.top5_accuracy) == (67.51, 67.51, 87.66)
    for row in DATA.rows:
        assert row.top1 is None or row.top1_err is None, 'one of the two is printed'
        for accuracy in (row.top1_accuracy, row.top5_accuracy, row.ap):
            assert accuracy is None or 0 < accuracy < 100
        if row.top1_accuracy is not None and row.top5_accuracy is not None:
            assert row.top1_accuracy < row.top5_accuracy


def test_printed_map_is_the_mean_of_the_classes():
    voc = [row for row in DATA.rows if row.setting == 'voc07_c4']
    assert len(voc) == 6
    for row in voc:
        assert len(row.class_ap) == 20
        assert round(sum(row.class_ap.values()) / 20, 1) == row.ap
    assert set(voc[0].class_ap) >= {'aeroplane', 'diningtable', 'tvmonitor'}


def test_measured_cost_is_near_the_printed_one():
    """Within 1 % or the digit that is cut off, or the network's row gives the reason not."""
    # test_costs.py holds these figures to what is measured.
    golden = json.loads((Path(__file__).parents[1] / 'golden' / 'complexity.json').read_text())
    measured = {entry['arch']: entry['macs'] / 1e6 for entry in golden}
    compared = [r for r in DATA.rows if r.arch in measured and r.mflops is not None and not r.budget]
    for row in compared:
        near = abs(measured[row.arch] - row.mflops) <= max(0.01 * row.mflops, 1)
        assert near or get_arch(row.arch).cost_note, f'{row.table} {row.model}: {measured[row.arch]:.2f}'
    assert len(compared) > 50


def test_structure_is_that_of_our_networks():
    for row in DATA.rows:
        if row.arch not in ARCHS or not row.structure:
            continue
        stages = get_arch(row.arch).stages
        if 'channels' in row.structure:
            assert row.structure['channels'] == '-'.join(str(stage.channels) for stage in stages)
        if 'd' in row.structure:
            assert row.structure['d'] == '-'.join(str(stage.depth) for stage in stages)
        if 'S_i' in row.structure:
            halves = [str(int(c) // 2) for c in row.structure['c'].split('-')]
            assert row.structure['S_i'].split('-') == halves


def test_archs_have_the_names_of_the_suite():
    named = {row.arch for row in DATA.rows if row.arch}
    assert len(named) > 80
    assert named <= ARCHS, sorted(named - ARCHS)


def test_corrections_keep_what_was_printed():
    corrected = [row for row in DATA.rows if row.printed]
    assert len(corrected) == 14
    for row in corrected:
        assert row.note
        assert all(getattr(row, name) != value for name, value in row.printed.items())
    (row,) = [r for r in corrected if r.printed.get('model') == 'ShuffleNetV2 0.5x']
    assert (row.model, row.arch, row.mflops, row.ap) == ('ShuffleNetV2 1.0x', 'shufflenetv2_1x', 146, 27.4)
    (row,) = [r for r in corrected if r.table == '14']
    assert (row.arch, row.mflops, row.printed['mflops']) == ('shufflenet_0.5x_g8', 40, 38)
    # Three rows are RetinaNet's, as in the authors' README.
    assert [row.ap for row in DATA.rows if row.setting == 'coco_retinanet'] == [29.7, 29.1, 31.7]


def test_repeats_agree_with_what_they_repeat():
    for row in DATA.rows:
        if row.repeats:
            own = [
                r for r in DATA.rows
                if (r.paper, r.table, r.setting) == (row.paper, row.repeats, row.setting)
                and r.arch == row.arch and (row.arch or r.model == row.model) and not r.repeats
            ]  # fmt: skip
            assert own, f'{row.table} {row.model}'
            assert any(
                abs(r.top1_accuracy - row.top1_accuracy) <= 0.0501
                and (not r.top5_accuracy or not row.top5_accuracy
                     or abs(r.top5_accuracy - row.top5_accuracy) <= 0.0501)
                for r in own
            ), f'{row.table} {row.model}'  # fmt: skip


def test_a_result_counts_once():
    """What is left twice are two trainings: an earlier version, a re-implementation, an ablation."""
    count = Counter((r.paper, r.setting, r.arch) for r in DATA.results() if r.arch)
    twice = {arch for (_, setting, arch), n in count.items() if n > 1 and setting == 'imagenet'}
    assert twice == {'shufflenet_1x_g3', 'shufflenet_1x_g4', 'shufflenet_1x_g8'}  # quoted: first version
    assert not any(r.repeats for r in DATA.results())
    assert len(DATA.results('detection')) == 25
    assert len(DATA.results()) == 25 + len(DATA.results('classification'))


def test_a_result_knows_its_networks_cost_and_accuracy():
    found = {(r.setting, r.model): r for r in DATA.results('detection')}
    net = found['voc07_c4', '352-MENet-12x1 (g=8)']
    assert (net.ap, net.mflops, net.top1) == (58.9, 144, 66.69)
    assert found['voc07_c4', 'ShuffleNet 1x (g=3)'].top1 == 65.69  # their own training, not the quoted one
    net = found['coco_frcnn_600', 'ShuffleNet 1x (g=3)']
    assert (net.mflops, net.budget, net.latency_ms['224x224']) == (137, False, 37.8)  # Table 1, not 140
    assert found['coco_frcnn_600', '1.0 MobileNet-224 [12]'].top1 == 70.6
    assert found['coco_frcnn_600', '1.0 MobileNet-224 (our impl.)'].top1 is None  # not printed
    assert found['coco_frcnn_fpn', 'CondenseNetV2-A'].params_m == 2.0


def test_papers_are_cited_by_their_authors():
    assert [paper.citation for paper in DATA.papers.values()] == [
        'Qin et al. 2018, arXiv:1803.09127',
        'Chen & Li 2017, arXiv:1706.06792',
        'Zhang et al. 2017, arXiv:1707.01083',
        'Yang et al. 2021, arXiv:2104.04382',
    ]


@pytest.mark.parametrize(
    'row', [{'paper': 'arXiv:0', 'table': '1', 'model': 'x', 'setting': 'imagenet'}, {'modell': 'x'}, 3]
)
def test_a_bad_file_is_one_line(tmp_path: Path, row):
    data = json.loads(published.FILE.read_text(encoding='utf-8'))
    path = tmp_path / 'published.json'
    path.write_text(json.dumps({**data, 'rows': [row]}))
    with pytest.raises(UserError, match=r'published\.json: not a file of published results'):
        published.load(path)
