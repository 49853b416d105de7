"""A network that is not built as its row states is refused when it is built."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from torch import nn

from backbones import build_backbone, build_classifier, get_arch
from backbones.base import StageHead, family_of, native_stride
from backbones.layers import ConvBN
from backbones.row_check import Part, RowError, check_row

ARCH = 'menet_228_12x1_g3'  # stem 24 at stride 4; stages 228, 456, 912
FAMILY = family_of(get_arch(ARCH))


@pytest.fixture(autouse=True)
def nothing_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('backbones.row_check._checked', set())


def damage(monkeypatch: pytest.MonkeyPatch, function: str, module: Callable[..., nn.Module]) -> None:
    monkeypatch.setattr(FAMILY, function, staticmethod(module))


def test_a_stage_with_another_stride(monkeypatch: pytest.MonkeyPatch) -> None:
    make = FAMILY.make_stage
    damage(
        monkeypatch,
        'make_stage',
        lambda arch, stage, stride, conventions: make(arch, stage, 1, conventions),
    )
    match = f'{ARCH}, stage 8: the row says stride 8, channels 228; built: stride 4, channels 228; correct'
    with pytest.raises(RowError, match=match):
        build_backbone(ARCH)


def test_a_stage_with_other_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    make = FAMILY.make_stage

    def make_stage(arch, stage, stride, conventions):
        if stage.stride == 16:
            return ConvBN(228, 400, 3, stride=stride)
        return make(arch, stage, stride, conventions)

    damage(monkeypatch, 'make_stage', make_stage)
    build_backbone(ARCH, out_strides=(8,))  # without the stage
    match = r'stage 16: the row says stride 16, channels 456; built: stride 16, channels 400'
    for build in (build_backbone, build_classifier):  # before stage 32 takes the wrong number
        with pytest.raises(RowError, match=match):
            build(ARCH)


def test_a_stem_with_another_stride(monkeypatch: pytest.MonkeyPatch) -> None:
    damage(monkeypatch, 'make_stem', lambda arch, conventions: ConvBN(3, arch.stem_channels, 3, stride=2))
    with pytest.raises(
        RowError, match='stem: the row says stride 4, channels 24; built: stride 2, channels 24'
    ):
        build_backbone(ARCH)


def test_the_stage_head_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    arch = get_arch(ARCH)
    make = FAMILY.make_stage
    native = native_stride(arch, arch.stages[-1])
    damage(
        monkeypatch,
        'make_stage',
        lambda arch, stage, stride, conventions: make(arch, stage, 2, conventions),
    )
    StageHead(ARCH, stride=native)
    match = 'stage 32 as stage head: the row says stride 16, channels 912; built: stride 32, channels 912'
    with pytest.raises(RowError, match=match):
        StageHead(ARCH)


def test_the_check_changes_nothing() -> None:
    backbone = build_backbone(ARCH, bn_policy='train')
    for name, tensor in backbone.state_dict().items():
        assert not tensor.is_meta
        if name.endswith('num_batches_tracked'):
            assert tensor == 0
    assert all(module.training for module in backbone.modules())


def test_a_row_is_checked_once_and_another_row_of_the_name_again() -> None:
    calls = []

    class Counted(nn.Conv2d):
        def forward(self, x):
            calls.append(x.shape)
            return super().forward(x)

    arch = get_arch(ARCH)
    parts = [Part('stem', Counted(3, 24, 3, stride=4, padding=1), 4, 24)]
    check_row(arch, parts)
    check_row(arch, parts)
    assert len(calls) == 1
    check_row(replace(arch, stem_channels=25), parts)
    assert len(calls) == 2


def test_borders_that_a_network_leaves_out_are_no_contradiction() -> None:
    without_padding = nn.Sequential(nn.Conv2d(3, 24, 7, stride=2), nn.MaxPool2d(3, 2))
    check_row(get_arch(ARCH), [Part('stem', without_padding, 4, 24)])


@pytest.mark.usefixtures('plain_config_text')
def test_training_is_refused_in_one_line(
    refused: Callable, tiny_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage(monkeypatch, 'make_stem', lambda arch, conventions: ConvBN(3, arch.stem_channels, 3, stride=2))
    line = refused('train', tiny_config)
    assert (
        'menet_108_8x1_g3, stem: the row says stride 4, channels 12; built: stride 2, channels 12' in line
    )
