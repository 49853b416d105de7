"""MMDetection's own Python interface on our configs and checkpoints."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.apis import DetInferencer, inference_detector, init_detector
from mmengine.config import Config
from mmengine.registry import init_default_scope

from compactdet.mmdetection import MODELS

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / 'det_configs/menet_frcnn_shapes.py')
META = {'classes': ('circle', 'square'), 'palette': [(0, 0, 0), (255, 0, 0)]}


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    init_default_scope('mmdet')
    torch.manual_seed(0)
    model = MODELS.build(Config.fromfile(CONFIG).model)
    path = tmp_path_factory.mktemp('checkpoint') / 'epoch_1.pth'
    torch.save({'state_dict': model.state_dict(), 'meta': {'dataset_meta': META}}, path)
    return str(path)


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (96, 128, 3), dtype=np.uint8)


def test_init_detector(checkpoint: str, image: np.ndarray) -> None:
    model = init_detector(CONFIG, checkpoint, device='cpu')
    found = inference_detector(model, image).pred_instances
    assert len(found) > 0
    assert model.dataset_meta['classes'] == META['classes']


@pytest.mark.filterwarnings('ignore:Failed to add', 'ignore:__array_wrap__')  # of MMEngine and Matplotlib
def test_inferencer_gives_the_same_and_draws(checkpoint: str, image: np.ndarray, tmp_path: Path) -> None:
    inferencer = DetInferencer(model=CONFIG, weights=checkpoint, device='cpu', show_progress=False)
    result = inferencer(image, out_dir=str(tmp_path))
    expected = inference_detector(init_detector(CONFIG, checkpoint, device='cpu'), image).pred_instances
    assert result['predictions'][0]['scores'] == pytest.approx(expected.scores.tolist(), abs=1e-6)
    assert [*tmp_path.rglob('*.jpg')]
