"""Where the settings of the papers' rows come from: every difference from paper and code has its reason."""

from functools import cache

from mmengine.config import Config
from pages import table_in
from settings_table import CONFIGS, Rig, markdown, rigs, value_of


@cache
def all_rigs() -> list[Rig]:
    return [*rigs()]


def test_every_row_of_a_paper_is_in_one_rig() -> None:
    leaves = [leaf for rig in all_rigs() for leaf in rig.leaves]
    assert sorted(leaves) == sorted(
        path for path in CONFIGS.glob('*.py') if '_voc' in path.stem or '_coco' in path.stem
    )


def test_the_page_is_up_to_date() -> None:
    assert table_in('det_configs/settings.md', 'settings') == markdown(all_rigs())


def test_every_difference_has_its_reason() -> None:
    for rig in all_rigs():
        assert len(rig.settings) > 25
        for one in rig.settings:
            assert one.is_followed != bool(one.differs), f'{rig.title}, {one.name}: {one}'


def test_the_rigs_of_the_papers() -> None:
    """What a second reading found to differ from the code that the papers name."""
    menet, shufflenet, fpn, retinanet = ({one.name: one.here for one in rig.settings} for rig in all_rigs())
    assert (menet['RoI operator'], shufflenet['RoI operator']) == ('RoIAlign', 'RoIPool')
    for c4 in (menet, shufflenet):
        assert c4['frozen up to the map at stride'] == 4
        assert (c4['rate of biases'], c4['weight decay of biases']) == (2, 0)
        assert (c4['steps of warm-up'], c4['clipping of gradients']) == (None, None)
        assert c4['rate scaled with the images per step'] is True
    for pyramid in (fpn, retinanet):
        assert pyramid['frozen up to the map at stride'] == 4
        assert pyramid['BN of the network'] == 'eval'
    assert retinanet['extra levels of the pyramid'] == 'on_input'


def test_values_by_key() -> None:
    cfg = Config(dict(a=[dict(type='x.B', c=(1, 2)), dict(type='D', e=None)], f=dict(g=0)))
    assert value_of(cfg, 'a.B.c') == [1, 2]
    assert value_of(cfg, 'a.0.c.1') == 2
    assert value_of(cfg, 'f.g') == 0
    assert value_of(cfg, 'a.D.e.h') is None
    assert value_of(cfg, 'a.Z.c') is None
