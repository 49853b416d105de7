"""Weights that a library publishes, from the library's own cache of downloads."""

from pathlib import Path

import pytest
import torch
import torchvision

from backbones import build_backbone
from backbones.libraries.pretrained import library_weights
from backbones.weights import WeightsError, read_info
from compactdet.config.choice import DetectorChoice
from compactdet.config.options import TrainOptions, config_from_options

NAME = 'torchvision:squeezenet1_1'


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder, with an empty cache of downloads and no network."""

    def no_network(*_: object, **__: object) -> None:
        raise OSError('no network')

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'cache'))
    monkeypatch.setattr('torch.hub.download_url_to_file', no_network)


def cached(name: str) -> torch.nn.Module:
    """Put random weights where torchvision keeps its downloads, and return their network."""
    torch.manual_seed(0)
    network = torchvision.models.get_model(name, weights=None)
    url = torchvision.models.get_model_weights(name).DEFAULT.url
    Path('cache/checkpoints').mkdir(parents=True)
    torch.save(network.state_dict(), f'cache/checkpoints/{url.rpartition("/")[2]}')
    return network.eval()


@torch.no_grad()
def test_weights_of_a_library() -> None:
    network = cached('squeezenet1_1')
    x = torch.rand(1, 3, 65, 65)
    (ours,) = build_backbone(NAME, out_strides=(16,), pretrained=True).eval()(x)
    torch.testing.assert_close(ours, network.features(x), rtol=0, atol=1e-5)
    info = read_info(f'weights/{NAME}.safetensors')
    assert (info.arch, info.pretraining.top1) == (NAME, 58.178)  # torchvision's table of this version
    Path('cache').rename('gone')
    (again,) = build_backbone(NAME, (16,), pretrained=f'weights/{NAME}.safetensors').eval()(x)
    assert torch.equal(again, ours)
    assert library_weights(NAME) == Path(f'weights/{NAME}.safetensors')  # kept


def test_training_starts_from_them() -> None:
    cached('shufflenet_v2_x0_5')
    choice = DetectorChoice('torchvision:shufflenet_v2_x0_5', 'frcnn_c4', 'shapes')
    cfg = config_from_options(TrainOptions(choice, init='library'))
    file = 'weights/torchvision:shufflenet_v2_x0_5.safetensors'
    assert cfg.model.backbone.init_cfg == dict(type='ClassifierWeights', checkpoint=file)
    assert Path(file).is_file()


def test_without_a_network_or_a_library() -> None:
    with pytest.raises(
        WeightsError, match=r'torchvision could not give weights .*no network.* convert FILE'
    ):
        library_weights(NAME)
    with pytest.raises(WeightsError, match='menet_108_8x1_g3 is of no library'):
        library_weights('menet_108_8x1_g3')
    assert not Path('weights').exists()
