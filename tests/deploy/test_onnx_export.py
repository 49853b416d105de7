"""Export to ONNX: outputs, metadata, refusals, and the AP of an exported detector."""

import json
import runpy
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from backbones import build_classifier, get_arch, list_archs
from backbones.weights import save_weights
from compactdet.deploy import int8_accuracy, onnx_export
from compactdet.deploy.latency import Interval
from compactdet.deploy.onnx_detector import OnnxDetector, load_session, read_metadata
from compactdet.errors import UserError

pytest.importorskip('onnxscript')
ARCH = 'menet_108_8x1_g3'


@pytest.fixture(scope='module')
def weights(weights_info, tmp_path_factory) -> Path:
    """Return a weights file with the initial weights of a classifier."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp('weights') / 'initial.safetensors'
    save_weights(path, build_classifier(ARCH).state_dict(), weights_info)
    return path


def export(tmp_path: Path, arch: str, what: str, weights: Path | None = None, **options) -> Path:
    out = tmp_path / 'network.onnx'
    options = {'size': (64, 96), 'dynamic': False, **options}
    exportable = onnx_export.classification_network(what, arch, weights, **options)
    onnx_export.export(exportable, out)
    return out


@pytest.mark.parametrize('arch', [ARCH, 'condensenetv2_a'])
def test_a_backbone_has_folded_normalization_and_test_time_sparsity(arch: str, tmp_path: Path) -> None:
    onnx = pytest.importorskip('onnx')
    model = onnx.load(export(tmp_path, arch, 'backbone'))
    kinds = [node.op_type for node in model.graph.node]
    if arch == ARCH:
        assert 'BatchNormalization' not in kinds
    strides = get_arch(arch).strides
    assert [value.name for value in model.graph.output] == [f'stride{stride}' for stride in strides]
    assert model.opset_import[0].version == onnx_export.OPSET


@pytest.mark.slow
@pytest.mark.parametrize('arch', list_archs())
def test_every_network_is_exported(arch: str, tmp_path: Path) -> None:
    export(tmp_path, arch, 'backbone', size=None)


def test_a_classifier_keeps_its_weights(weights: Path, tmp_path: Path) -> None:
    out = export(tmp_path, ARCH, 'classifier', weights)
    session = load_session(out)
    metadata = read_metadata(out, session)
    assert metadata['arch'] == ARCH
    assert metadata['source'] == weights.name
    assert len(metadata['source_sha256']) == 64
    assert metadata['size'] == [64, 96]
    assert metadata['input'].startswith('RGB')
    image = onnx_export.sample_images((64, 96), onnx_export.Preprocessing())[0]
    network = onnx_export.classification_network('classifier', ARCH, weights, (64, 96), False).graph
    with torch.no_grad():
        expected = network(image)
    (found,) = session.run(None, {'image': image.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-3, atol=1e-3)


def test_images_of_any_size(tmp_path: Path) -> None:
    session = load_session(export(tmp_path, ARCH, 'backbone', dynamic=True))
    maps = session.run(None, {'image': torch.rand(1, 3, 96, 160).numpy()})
    assert [m.shape[2:] for m in maps] == [(24, 40), (12, 20), (6, 10), (3, 5)]


def test_nothing_is_written_if_the_outputs_differ(tmp_path: Path, monkeypatch) -> None:
    exporter = onnx_export.to_onnx

    def other_network(exportable, image):
        other = onnx_export.classification_network('classifier', ARCH, None, (64, 96), False)
        with torch.no_grad():
            other.graph.stem[0].conv.weight.mul_(1.5)
        return exporter(other, image)

    monkeypatch.setattr(onnx_export, 'to_onnx', other_network)
    with pytest.raises(UserError, match=rf'^{ARCH}: the exported file differs from PyTorch \(logits by '):
        export(tmp_path, ARCH, 'classifier')
    assert [*tmp_path.iterdir()] == []


def test_the_wrong_weights(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f'holds the weights of {ARCH}, not of mobilenet_1x'):
        export(tmp_path, 'mobilenet_1x', 'classifier', weights)


def test_without_onnx(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, 'onnx', None)
    with pytest.raises(UserError, match=r'exporting needs ONNX: pip install'):
        export(tmp_path, ARCH, 'backbone')


@pytest.fixture(scope='module')
def exported_detector(tiny_run: Path, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp('onnx') / 'detector.onnx'
    onnx_export.export(onnx_export.detector(tiny_run, None, dynamic=True), out)
    return out


def test_the_metadata_of_a_detector(exported_detector: Path, tiny_run: Path) -> None:
    metadata = read_metadata(exported_detector, load_session(exported_detector))
    record = json.loads((tiny_run / 'record.json').read_text())
    assert metadata['arch'] == record['arch']
    assert metadata['classes'] == record['dataset']['classes']
    assert metadata['size'] == 'any'


def test_the_ap_of_an_exported_detector(
    exported_detector: Path, tiny_run: Path, run_tool, tmp_path: Path, plain_config_text
) -> None:
    """The same detections, and so the same AP, as PyTorch gives."""
    found = {}
    for backend, extra in {'pytorch': [], 'onnxruntime': ['--model', exported_detector]}.items():
        out = tmp_path / f'{backend}.json'
        arguments = [tiny_run, '--backend', backend, *extra, '--out', out, '--work-dir', tmp_path / backend]
        status, text, err = run_tool('test', *arguments)
        assert (status, err) == (0, '')
        found[backend] = json.loads(out.read_text()), text.partition('images in')[0].partition('┏')[2]
    (expected, table), (detections, own_table) = found['pytorch'], found['onnxruntime']
    assert own_table == table
    assert len(detections) == len(expected)
    key = lambda entry: (entry['image_id'], -round(entry['score'], 4), entry['bbox'])  # noqa: E731
    for one, other in zip(sorted(expected, key=key), sorted(detections, key=key), strict=True):
        assert one['image_id'] == other['image_id']
        assert one['score'] == pytest.approx(other['score'], abs=1e-4)


def test_a_folder_that_is_no_run(run_tool, tmp_path: Path) -> None:
    status, _, err = run_tool('test', tmp_path)
    assert status == 1
    assert 'is not the folder of a finished run; give CONFIG and CHECKPOINT' in err


def test_an_exported_detector_has_its_classes(exported_detector: Path) -> None:
    with pytest.raises(UserError, match=r'detects circle, .*; the data set has cat'):
        OnnxDetector(exported_detector, ['cat'])


def test_int8(tmp_path: Path, run_tool) -> None:
    folder = tmp_path / 'images'
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(16):
        cv2.imwrite(str(folder / f'{i}.png'), rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    out = tmp_path / 'int8.onnx'
    arguments = ['--arch', ARCH, '--size', '64', '--int8', '--calibrate', folder, '--out', out]
    status, text, err = run_tool('export', *arguments)
    assert (status, err) == (0, '')
    metadata = read_metadata(out, load_session(out))
    assert metadata['precision'] == 'int8'
    assert metadata['calibration_images'] == 16
    assert 0 < metadata['int8_difference'] < 0.5
    assert 'int8, calibrated on 16 images' in text
    (folder / '0.png').unlink()
    status, _, err = run_tool('export', *arguments)
    assert (status, err) == (1, f"error: --calibrate '{folder}' has 15 images; at least 16 are needed\n")


def test_the_accuracy_of_an_int8_classifier(weights: Path, tmp_path: Path, run_tool) -> None:
    rng = np.random.default_rng(0)
    for name, count in (('cat', 9), ('dog', 7)):
        (tmp_path / 'images' / name).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
            cv2.imwrite(str(tmp_path / 'images' / name / f'{i}.png'), pixels)
    (tmp_path / 'images' / 'class_index.txt').write_text('0 cat\n1 dog\n')
    arguments = ['--arch', ARCH, '--init', weights, '--size', '64', '--int8', '--out', tmp_path / 'x.onnx']
    arguments += ['--calibrate', tmp_path / 'images', '--evaluate', tmp_path / 'images']
    status, text, err = run_tool('export', *arguments)
    assert (status, err) == (0, '')
    found = read_metadata(tmp_path / 'x.onnx', load_session(tmp_path / 'x.onnx'))['int8_accuracy']
    assert (found['metric'], found['num_images']) == ('top1', 16)
    assert f'top1 on 16 images: float32 {found["float32"]:.1f}, int8 {found["int8"]:.1f}' in text
    assert found['latency_ratio']['value'] > 0


def test_the_accuracy_of_an_int8_detector(tiny_run: Path, tmp_path: Path, run_tool) -> None:
    record = json.loads((tiny_run / 'record.json').read_text())
    (tmp_path / 'images').mkdir()
    for i, image in enumerate(onnx_export.sample_images((64, 64), count=16)):
        cv2.imwrite(str(tmp_path / 'images' / f'{i}.png'), image[0].permute(1, 2, 0).numpy())
    arguments = [tiny_run, '--int8', '--calibrate', tmp_path / 'images', '--dynamic', '--evaluate']
    status, _, err = run_tool('export', *arguments, '--out', tmp_path / 'x.onnx')
    assert (status, err) == (0, '')
    found = read_metadata(tmp_path / 'x.onnx', load_session(tmp_path / 'x.onnx'))['int8_accuracy']
    assert found['metric'] == 'coco/ap'
    assert found['float32'] == pytest.approx(100 * record['metrics']['test']['coco/ap'], abs=0.1)
    assert found['loss'] == pytest.approx(found['float32'] - found['int8'])


def test_a_large_loss_is_reported(capsys) -> None:
    comparison = int8_accuracy.Comparison('top1', 100, 70.0, 68.5, Interval(0.5, 0.4, 0.6), True)
    tool = runpy.run_path('tools/export.py')
    metadata = {'what': 'detector', 'calibration_images': 16}
    tool['print_int8']({**metadata, 'int8_accuracy': comparison.as_metadata()})
    assert 'not recommended: int8 loses 1.5 points, more than 1' in capsys.readouterr().out
    tool['print_int8'](metadata)
    assert 'measure it with --evaluate before you use it' in capsys.readouterr().out


def test_files_that_cannot_be_run(tmp_path: Path) -> None:
    path = tmp_path / 'x.onnx'
    with pytest.raises(UserError, match='no such file'):
        load_session(path)
    path.write_bytes(b'not a model')
    with pytest.raises(UserError, match=r'ONNX Runtime cannot load it: '):
        load_session(path)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--out', 'x.onnx'], 'give either a run folder or --arch'),
        (['--arch', ARCH, '--what', 'detector', '--out', 'x.onnx'], 'is exported from a run folder'),
        (['run', '--init', 'w', '--out', 'x.onnx'], '--init goes with --arch'),
        (['--arch', ARCH, '--int8', '--out', 'x.onnx'], '--int8 and --calibrate go together'),
        (['--arch', ARCH, '--size', '8', '--out', 'x.onnx'], 'at least 32 pixels'),
        (['run', '--evaluate', '--out', 'x.onnx'], '--evaluate goes with --int8'),
        (
            ['run', '--int8', '--calibrate', 'x', '--out', 'x.onnx', '--evaluate', 'y'],
            'labeled images for a classifier, none for a detector',
        ),
        (
            ['--arch', ARCH, '--int8', '--calibrate', 'x', '--evaluate', 'y', '--out', 'x.onnx'],
            'random weights have no accuracy',
        ),
    ],
)
def test_bad_usage(arguments: list[str], message: str, run_tool) -> None:
    status, _, err = run_tool('export', *arguments)
    assert status == 2
    assert message in err


def test_the_tool(run_tool, tmp_path: Path) -> None:
    out = tmp_path / 'x.onnx'
    arguments = ['--arch', ARCH, '--what', 'backbone', '--size', '64', '--out', out]
    status, text, _ = run_tool('export', *arguments)
    assert status == 0
    assert text.startswith(f'{out}: backbone {ARCH}, images of 64x64, ')
    status, _, err = run_tool('export', '--arch', ARCH, '--out', tmp_path / 'x.pt')
    assert (status, err) == (1, f"error: --out '{tmp_path}/x.pt' must end in .onnx\n")
