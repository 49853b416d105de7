"""Facts that libraries state about their published files, and files that hold no weights."""

from pathlib import Path

import pytest
import torch

from backbones import Conventions, Preprocessing, build_classifier, get_arch
from backbones.libraries.adapter import LIBRARIES
from backbones.weights import WeightsError, check_file
from compactdet.errors import UserError
from compactdet.weights.convert import convert
from compactdet.weights.formats import FORMATS
from compactdet.weights.library_facts import published_facts
from compactdet.weights.verify import find_images

HALVES = Preprocessing('rgb', (127.5,) * 3, (127.5,) * 3)
TIMM = next(fmt for fmt in FORMATS if fmt.source == "timm's format")


def test_torchvisions_preprocessing() -> None:
    """Those of EfficientNetV2-L's weights differ from ImageNet's mean and standard deviation."""
    describe = LIBRARIES['torchvision'].describe
    assert describe('efficientnet_v2_l', torch.nn.Identity())[2] == HALVES
    assert describe('efficientnet_v2_s', torch.nn.Identity())[2] == Preprocessing()


@pytest.mark.parametrize(
    ('arch', 'file', 'expected'),
    [
        (
            'mobilenetv3_small_1x',
            'tf_mobilenetv3_small_100-37f49e2b.pth',
            (HALVES, Conventions(padding='same', bn_eps=1e-3)),
        ),
        ('efficientnet_b0', 'efficientnet_b0_ra-3dd342df.pth', (Preprocessing(), Conventions())),
        ('efficientnet_b0', 'tf_mine.pth', (Preprocessing(), Conventions(padding='same', bn_eps=1e-3))),
    ],
)
def test_timms_files(arch: str, file: str, expected: tuple[Preprocessing, Conventions]) -> None:
    pytest.importorskip('timm')
    assert published_facts(get_arch(arch), TIMM, file) == expected


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'\n<!DOCTYPE html><html><title>Sign in</title>', 'is a web page, not weights'),
        (b'version https://git-lfs.github.com/spec/v1\noid sha256:00\n', 'is a Git LFS pointer'),
    ],
)
@pytest.mark.parametrize('name', ['a.pth', 'a.safetensors'])
def test_what_was_downloaded_instead_of_weights(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=message):
        check_file(tmp_path / name)


def test_a_negative_variance_is_named(tmp_path: Path) -> None:
    state = build_classifier('torchvision:shufflenet_v2_x0_5').state_dict()
    names = {key: key.split('.', 1)[1] for key in state}
    state['stem.conv1.1.running_var'][3] = -1
    torch.save({names[key]: value for key, value in state.items()}, tmp_path / 'a.pth')
    with pytest.raises(UserError, match=r'1 entries negative, .*: stem\.conv1\.1\.running_var'):
        convert(tmp_path / 'a.pth', 'torchvision:shufflenet_v2_x0_5')


def test_batch_normalization_trains_alike_in_all_libraries() -> None:
    with torch.device('meta'):
        network = build_classifier('torchvision:mobilenet_v3_small')
    momenta = {m.momentum for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)}
    assert momenta == {0.1}  # torchvision's is 0.01


def test_wordnet_ids_are_looked_up(tmp_path: Path) -> None:
    """Folders of three of ImageNet's classes have their numbers in the 1,000; other names are asked for."""
    pytest.importorskip('timm')
    for name in ('n01440764', 'n01443537', 'n15075141'):  # the first, the second and the last
        (tmp_path / 'some' / name).mkdir(parents=True)
        (tmp_path / 'some' / name / '0.png').write_bytes(b'')
    assert [number for _, number in find_images(tmp_path / 'some', None, 1000)] == [0, 1, 999]
    assert [number for _, number in find_images(tmp_path / 'some', None, 3)] == [0, 1, 2]
    (tmp_path / 'some/n15075141').rename(tmp_path / 'some/tissue')
    with pytest.raises(
        UserError, match=r'3 subfolders, the weights have 1000 classes; .* --class-index FILE'
    ):
        find_images(tmp_path / 'some', None, 1000)
