"""The README is checked: its map, its results, its example."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from compactdet.records import results_table
from compactdet.records.record_file import PRETRAINING, read
from compactdet.transfer import correlation, sources
from compactdet.transfer import report as transfer_report
from compactdet.transfer import study as transfer

ROOT = Path(__file__).parents[1]
README = (ROOT / 'README.md').read_text(encoding='utf-8')


def section(title: str) -> str:
    return README.split(f'\n## {title}\n')[1].split('\n## ')[0]


@pytest.mark.parametrize('folder', ['backbones', 'tools/compactdet'])
def test_map_names_every_module(folder):
    text = section('The map of the house')
    for path in (ROOT / folder).glob('*.py'):
        named = path.name in text or (path.name.startswith('benchmark_') and 'benchmark_*.py' in text)
        assert named or path.name == '__init__.py', f'{path.name} is not on the map'


def test_map_names_only_what_there_is():
    for name in re.findall(r'[a-z0-9_]+\.py', section('The map of the house')):
        assert list(ROOT.rglob(name)), f'{name} is on the map, but not there'


def test_every_tool_is_among_the_commands():
    text = section('Commands')
    for path in (ROOT / 'tools').glob('*.py'):
        assert f'python tools/{path.name}' in text


def test_results_are_those_of_the_records():
    shown = re.search(r'<!-- results -->\n(.*)<!-- /results -->', README, re.DOTALL)[1]
    template = ROOT / 'work_dirs_template'
    folders = [str(path) for name in ('bccd_*', 'shapes_*') for path in template.glob(name)]
    assert shown == results_table.markdown(results_table.rows(results_table.find_records(folders)), ROOT)


def test_cifar10_rows_are_those_of_the_records():
    shown = dict(re.findall(r'\[([\d.]+)\]\((work_dirs_template/cifar10_rows/[^)]+)\)', README))
    top1 = {
        f'{100 - 100 * read(path, PRETRAINING)["metrics"]["test"]["top1"]:.2f}': str(path.relative_to(ROOT))
        for path in (ROOT / 'work_dirs_template/cifar10_rows').rglob('record.json')
    }
    assert shown == top1


def test_the_studys_figures_are_those_of_its_report():
    text = README.split('### A study')[1].split('\n## ')[0]
    report = ROOT / 'work_dirs_template/cifar10_transfer/report/report.md'
    said = report.read_text(encoding='utf-8').replace('\\', '').replace('+', '')
    figures = re.findall(r'-?\d+\.\d+ \[[^\]]+\]', text.replace(' points of AP50 [', ' ['))
    figures += re.findall(r'\d+ of \d+ pairs', text)
    assert len(figures) == 8
    for figure in figures:
        assert figure in said.replace(' points of AP on average [', ' ['), figure


def test_the_studys_report_is_that_of_the_records(monkeypatch):
    """By its tables of nets, which hold no interval."""
    monkeypatch.setattr(correlation, 'RESAMPLES', 99)
    runs = ROOT / 'work_dirs_template/cifar10_transfer'
    found = sources.from_records(results_table.find_records([str(runs)]), 'voc/ap50_11point')
    study = transfer.make_study(*found)
    svgs = {f'scatter_{i}': b'' for i in range(1, len(study.settings) + 1)}
    made = transfer_report.to_markdown(transfer_report.make_blocks(study, svgs, runs / 'report'))
    kept = (runs / 'report/report.md').read_text(encoding='utf-8')
    nets, others = ([line for line in text.splitlines() if 'record.json' in line] for text in (made, kept))
    assert nets == others
    assert len(nets) == 2 * 11


def test_links_lead_somewhere():
    for target in re.findall(r'\]\(([^)#]+)\)', README):
        assert (ROOT / target).exists(), target


USE = """
import torch
from backbones import StageHead, build_backbone, build_classifier
from backbones.wiring import detectors, frcnn_c4

images = torch.rand(2, 3, 64, 96)
shapes = [(16, 16, 24), (64, 8, 12), (128, 4, 6), (256, 2, 3)]
assert [m.shape[1:] for m in build_backbone('mynet_1x', (4, 8, 16, 32))(images)] == shapes
assert StageHead('mynet_1x')(torch.rand(1, 128, 7, 7)).shape == (1, 256, 7, 7)
assert build_classifier('mynet_1x', 10)(images).shape == (2, 10)
assert frcnn_c4('mynet_1x', num_classes=20)['roi_head']['bbox_head']['in_channels'] == 256

from mmengine.registry import DefaultScope
from matrix import check_pair

assert detectors('mynet_1x') == ('frcnn_c4', 'frcnn_fpn', 'retinanet_fpn')
with DefaultScope.overwrite_default_scope('mmdet'):
    for detector in detectors('mynet_1x'):
        check_pair('mynet_1x', detector)
print('works')
"""


def test_example_backbone_works():
    code = re.search(r'```python\n(.*?)```', section('Adding a backbone'), re.DOTALL)[1]
    # In a process of its own: the example must not be among the other tests' networks.
    done = subprocess.run(
        [sys.executable, '-c', code + USE],
        cwd=ROOT / 'tests/helpers',
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.endswith('works\n'), done.stderr
