"""The suite from Python: `import compactdet`."""

import json
import re
from pathlib import Path

import cv2
import finished_run
import numpy as np
import pytest

import compactdet
from compactdet.data import shapes
from compactdet.errors import UserError
from compactdet.training import predict as prediction

README = Path(__file__).parents[2] / 'tools/README.md'


@pytest.fixture(scope='module')
def run(tmp_path_factory: pytest.TempPathFactory) -> compactdet.Run:
    return compactdet.load_run(finished_run.write(tmp_path_factory.mktemp('run')))


def test_a_run_has_its_record_and_metrics(run: compactdet.Run) -> None:
    record = json.loads((run.folder / 'record.json').read_text())
    assert run.record == record
    assert run.metrics == record['metrics']['test']


def test_a_folder_without_a_record_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=re.escape(str(tmp_path))):
        compactdet.load_run(tmp_path)


def test_predictions_are_those_of_the_command(run: compactdet.Run, tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 255, (96, 128, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / 'a.png'), image)
    of_file, of_array = compactdet.predict(run, [tmp_path / 'a.png', image], score=0, device='cpu')
    assert len(of_file.boxes) > 0
    assert of_file.classes == tuple(shapes.CLASSES)
    np.testing.assert_array_equal(of_file.boxes, of_array.boxes)
    out = prediction.predict(run.folder, tmp_path / 'a.png', tmp_path / 'out', score=0, device='cpu')
    written = json.loads((out / 'predictions.json').read_text())
    (entry,) = written
    assert [row['score'] for row in entry['detections']] == pytest.approx(of_file.scores.tolist())


def test_evaluation_is_that_of_the_file(tmp_path: Path) -> None:
    box = {'image_id': 1, 'category_id': 1, 'bbox': [10, 10, 20, 20]}
    truth = {
        'images': [{'id': 1, 'file_name': 'a.jpg', 'width': 64, 'height': 64}],
        'categories': [{'id': 1, 'name': 'cat'}],
        'annotations': [{**box, 'id': 1, 'area': 400, 'iscrowd': 0}],
    }
    (tmp_path / 'gt.json').write_text(json.dumps(truth))
    (tmp_path / 'dt.json').write_text(json.dumps([{**box, 'score': 0.9}]))
    result = compactdet.evaluate(tmp_path / 'gt.json', tmp_path / 'dt.json')
    assert result['coco']['ap'] == 1
    assert result['voc']['ap50_11point'] == 1


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match='no attribute'):
        compactdet.nothing  # noqa: B018
    assert 'train' in dir(compactdet)


@pytest.mark.slow
def test_the_example_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'det_configs').symlink_to(README.parents[1] / 'det_configs')
    code = README.read_text().split('## From Python\n')[1].split('```python\n')[1].split('```')[0]
    names: dict[str, object] = {}
    exec(code, names)
    assert isinstance(names['run'], compactdet.Run)
