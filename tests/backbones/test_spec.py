"""What a row of data may say, and who reads it."""

import pytest

from backbones import Arch, Conventions, Preprocessing, Stage, build_backbone, get_arch, list_archs
from backbones.base import family_of, keeps_size, native_stride
from backbones.networks.igcv3 import Unit
from backbones.spec import UnitStage, UnknownArchError, register_archs, stages_of


def row(*stages: Stage, stem_stride: int = 4) -> Arch:
    return Arch(paper='-', stem_channels=8, stem_stride=stem_stride, stages=stages)


def test_unknown_arch_names_near_matches() -> None:
    with pytest.raises(
        UnknownArchError, match=r"unknown arch 'shufflenet_1x_g5'; near: .*shufflenet_1x_g3"
    ):
        get_arch('shufflenet_1x_g5')


def test_unknown_arch_without_near_match_says_where_to_look() -> None:
    with pytest.raises(KeyError, match=r"unknown arch '\?'; backbones\.list_archs\(\) has them all"):
        get_arch('?')


def test_a_row_passes_through() -> None:
    arch = get_arch('mobilenet_1x')
    assert get_arch(arch) is arch


def test_name_and_family_come_from_the_table() -> None:
    arch = get_arch('mobilenet_0.75x')
    assert (arch.name, arch.family) == ('mobilenet_0.75x', 'MobileNet')
    assert family_of(arch).__name__ == 'MobileNet'


def test_patterns_select_in_the_tables_order() -> None:
    assert list_archs('mobilenet_*') == [
        'mobilenet_0.25x',
        'mobilenet_0.5x',
        'mobilenet_0.75x',
        'mobilenet_1x',
    ]
    assert list_archs('*_se') == ['shufflenet_2x_g3_se']
    assert list_archs('MENET*') == []
    assert list_archs() == list_archs('*')


def test_a_name_is_registered_once() -> None:
    with pytest.raises(ValueError, match="arch 'mobilenet_1x' is in both MobileNet and CompactBackbone"):
        register_archs('CompactBackbone', {'mobilenet_1x': row(Stage(8, 16))})


@pytest.mark.parametrize(
    'arch',
    [
        row(Stage(8, 16), Stage(8, 32)),
        row(Stage(16, 16), Stage(8, 32)),
        row(Stage(2, 16), Stage(4, 32)),
    ],
)
def test_strides_must_rise(arch: Arch) -> None:
    with pytest.raises(ValueError, match=r"arch 'falling': strides \[.*\] do not increase"):
        register_archs('CompactBackbone', {'falling': arch})
    assert 'falling' not in list_archs()


def test_taps_by_hand() -> None:
    arch = row(Stage(8, 16, 4), Stage(32, 64, 2))
    assert arch.strides == {4: 8, 8: 16, 32: 64}
    assert arch.channels(4) == 8
    assert arch.stage_after(4) == Stage(8, 16, 4)
    assert arch.stage_after(8) == Stage(32, 64, 2)
    assert [arch.channels_before(s) for s in arch.stages] == [8, 16]
    assert [arch.stride_before(s) for s in arch.stages] == [4, 8]
    assert [native_stride(arch, s) for s in arch.stages] == [2, 4]


def test_units_of_one_stride_are_a_stage() -> None:
    thin, wide, last = Unit(1, 16), Unit(6, 24), Unit(6, 32)
    assert stages_of([(2, thin), (8, thin), (8, wide), (8, wide), (16, last)]) == (
        UnitStage(2, 16, 1, (thin,)),
        UnitStage(8, 24, 3, (thin, wide, wide)),
        UnitStage(16, 32, 1, (last,)),
    )


def test_only_the_first_unit_of_a_stage_that_downsamples_does() -> None:
    arch = row(Stage(2, 16, 2), Stage(8, 32, 2), stem_stride=2)
    assert [keeps_size(arch, stage, i) for stage in arch.stages for i in (0, 1)] == [
        True,
        True,
        False,
        True,
    ]


def test_a_stage_hides_the_stem_at_its_stride() -> None:
    assert row(Stage(2, 16), stem_stride=2).strides == {2: 16}
    assert get_arch('mobilenet_1x').strides == {2: 64, 4: 128, 8: 256, 16: 512, 32: 1024}


def test_no_map_at_a_stride() -> None:
    with pytest.raises(
        ValueError, match=r'mobilenet_1x has no map at stride 64; it has \[2, 4, 8, 16, 32\]'
    ):
        build_backbone('mobilenet_1x', out_strides=(64,))


def test_no_stage_after_the_last() -> None:
    with pytest.raises(ValueError, match='mobilenet_1x has no stage after stride 32'):
        get_arch('mobilenet_1x').stage_after(32)


def test_preprocessing_holds_floats() -> None:
    given = Preprocessing('bgr', mean=[0, 0, 0], std=[255, 255, 255])  # type: ignore[arg-type]
    assert given == Preprocessing('bgr', (0.0, 0.0, 0.0), (255.0, 255.0, 255.0))
    assert all(type(value) is float for value in given.mean + given.std)


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'channel_order': 'RGB'}, "channel_order='RGB'; it is 'rgb' or 'bgr'"),
        ({'mean': (0, 0)}, 'three numbers each'),
        ({'std': (1, 1, 0)}, 'std above 0'),
    ],
)
def test_preprocessing_is_checked(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Preprocessing(**fields)


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'padding': 'valid'}, "padding='valid'; it is 'symmetric' or 'same'"),
        ({'activation': 'swish'}, "activation='swish'; it is 'relu' or 'relu6'"),
    ],
)
def test_conventions_are_checked(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Conventions(**fields)


def test_a_family_without_other_conventions_refuses_them() -> None:
    with pytest.raises(ValueError, match=r'menet_108_8x1_g3: MENet has no form with .*same'):
        build_backbone('menet_108_8x1_g3', conventions=dict(padding='same'))


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(bn_policy='eval_'), r"bn_policy='eval_'; it is one of \['train', 'eval', 'frozen'\]"),
        (dict(out_strides=()), r'out_strides=\(\): give rising strides'),
        (dict(out_strides=(16, 8)), r'out_strides=\(16, 8\): give rising strides'),
        (dict(out_strides=(8,), frozen_stages=2), 'frozen_stages=2; from -1 to 1 here'),
    ],
)
def test_backbone_arguments_are_checked(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_backbone('menet_108_8x1_g3', **arguments)
