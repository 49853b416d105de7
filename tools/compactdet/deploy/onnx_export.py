"""Export of backbones, classifiers and detectors to ONNX, verified against PyTorch.

Batch normalization is folded into convolutions where it follows one, learned sparsity has its test-time
form, parallel branches are merged, and the metadata of the file state what it was made from. A file is
written only if ONNX Runtime gives the outputs of PyTorch on test images.
"""

from __future__ import annotations

import contextlib
import io
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from backbones import build_backbone, build_classifier, get_arch
from backbones.base import family_of
from backbones.libraries.reparameterize import reparameterize
from backbones.sparsity import converted_state_dict
from backbones.spec import Arch, Preprocessing
from backbones.weights import WeightsInfo, file_sha256, num_classes_of, read_weights
from compactdet.data import shapes
from compactdet.deploy import int8
from compactdet.deploy.detector_graph import OneStageGraph, TwoStageGraph
from compactdet.deploy.onnx_detector import load_session
from compactdet.errors import UserError
from compactdet.files import write_whole
from compactdet.records.record_file import read as read_record
from compactdet.training.predict import find_checkpoint, load_detector

OPSET = 18
LARGEST_SIDE = 4096  # pixels, of an image of any size
# Largest differences between PyTorch and ONNX Runtime on the test images: outputs of a network relative to
# its largest output; detections in pixels and in score.
RELATIVE_TOLERANCE = 1e-3
PIXEL_TOLERANCE, SCORE_TOLERANCE = 0.5, 1e-3
INSTALL = 'exporting needs ONNX: pip install -e ".[export]"'


@dataclass(frozen=True)
class Exportable:
    """A network in the form that is exported.

    Attributes:
        graph: Module in evaluation mode; takes an image (1, 3, H, W) float32.
        what: 'backbone', 'classifier' or 'detector'.
        arch: Name of the network.
        outputs: Name of each output.
        preprocessing: What the caller applies to an image; None for a detector, which takes BGR pixels
            from 0 to 255 of the image resized as in the test pipeline.
        source: The file of the weights; None for random weights.
        classes: Names of the classes, of a detector.
        size: Height and width of the test images in pixels.
        dynamic: Whether the exported file takes images of any size.
    """

    graph: nn.Module
    what: str
    arch: str
    outputs: tuple[str, ...]
    preprocessing: Preprocessing | None
    source: Path | None
    classes: tuple[str, ...]
    size: tuple[int, int]
    dynamic: bool = False


def classification_network(
    what: str, arch: str, weights: Path | None, size: tuple[int, int] | None, dynamic: bool
) -> Exportable:
    """Build a backbone or a classifier in its test-time form.

    Args:
        what: 'backbone' (gives the feature maps at all its strides) or 'classifier' (gives logits).
        arch: A name from ``list_archs()``.
        weights: A weights file of the suite; None for random weights, which serve to measure latency.
        size: Height and width in pixels; None for the size of the published network.
        dynamic: Whether the file takes images of any size.

    Raises:
        UnknownArchError: There is no such network.
        UserError: The weights are those of another network, or it does not take images of that size.
        WeightsError: The weights file cannot be read.
    """
    row = get_arch(arch)
    size = size or (row.input_size, row.input_size)
    try:
        row.check_image(*size)
    except ValueError as error:
        raise UserError(str(error)) from error
    state_dict, info = (None, None) if weights is None else read_weights(weights)
    if info is not None and info.arch != row.name:
        raise UserError(f'{weights} holds the weights of {info.arch}, not of {row.name}')
    network = _with_weights(row, state_dict, info)
    graph: nn.Module
    outputs: tuple[str, ...]
    if what == 'backbone':
        strides = tuple(row.strides)
        graph = build_backbone(row, strides, conventions=network.conventions)
        own = network.state_dict()
        graph.load_state_dict({key: own[key] for key in graph.state_dict()})
        outputs = tuple(f'stride{stride}' for stride in strides)
    else:
        graph, outputs = network, ('logits',)
    reparameterize(graph)
    preprocessing = Preprocessing() if info is None else info.preprocessing
    return Exportable(
        graph.eval(),
        what,
        row.name,
        outputs,
        preprocessing,
        weights,
        (),
        size,
        dynamic,
    )


def _with_weights(
    row: Arch, state_dict: Mapping[str, Tensor] | None, info: WeightsInfo | None
) -> nn.Module:
    """Return the whole network in its test-time form, with the weights or with random ones."""
    conventions = asdict(info.conventions) if info is not None else {}
    if 'sparsity' in family_of(row).takes_conventions:
        if state_dict is not None and conventions['sparsity'] == 'masked':
            state_dict = converted_state_dict(state_dict)
        conventions['sparsity'] = 'converted'
    num_classes = None if state_dict is None else num_classes_of(state_dict, row.name)
    network = build_classifier(row, num_classes, conventions=conventions)
    if state_dict is not None:
        network.load_state_dict(state_dict, strict=False)
    else:
        side = min(row.input_size, 224) if row.size_divisor == 1 else row.input_size
        _measure_statistics(network, side)
    return network


@torch.no_grad()
def _measure_statistics(network: nn.Module, side: int) -> None:
    """Set the statistics of batch normalization to those of test images.

    With the initial ones, activations of a deep network with random weights grow to 1e25, and float32
    rounding alone changes the outputs.
    """
    for layer in network.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.momentum = None  # the statistics become those of the one batch
    with torch.random.fork_rng(devices=[]):
        network.train()(torch.cat(sample_images((side, side), Preprocessing())))


def detector(run_dir: Path, size: tuple[int, int] | None, dynamic: bool) -> Exportable:
    """Load the detector of a finished run, with its preprocessing and its non-maximum suppression.

    Args:
        run_dir: Folder of a run of tools/train.py.
        size: Height and width in pixels of the resized image; None for the size of the run's test pipeline.
        dynamic: Whether the file takes images of any size.

    Raises:
        UserError: It is no finished run, or the detector is of a type that cannot be exported.
        WeightsError: The checkpoint cannot be read.
    """
    loaded = load_detector(run_dir, 'cpu')
    record = read_record(run_dir / 'record.json')
    model = loaded.model
    reparameterize(model)
    kind = type(model).__name__
    graphs = {'FasterRCNN': TwoStageGraph, 'RetinaNet': OneStageGraph}
    if kind not in graphs:
        raise UserError(f'{run_dir}: a {kind} cannot be exported; possible are {", ".join(graphs)}')
    costs = record['costs']['at_input']
    height, width = size or (costs['height'], costs['width'])
    if height is None or width is None:
        raise UserError(f'{run_dir}: its record does not state the input size; give --size')
    return Exportable(
        graphs[kind](model).eval(),
        'detector',
        record['arch'],
        ('boxes', 'scores', 'labels'),
        None,
        find_checkpoint(run_dir, record),
        tuple(loaded.classes),
        (height, width),
        dynamic,
    )


def export(
    exportable: Exportable,
    out: Path,
    calibration: Path | None = None,
    evaluate: Callable[[Mapping[str, bytes]], Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Write an ONNX file and return its metadata.

    Args:
        exportable: What is exported.
        out: The file.
        calibration: Folder of images with which the network is quantized to int8; None for float32.
        evaluate: Returns the accuracy of the models 'float32' and 'int8', for the metadata of an int8 file.

    Raises:
        UserError: The export extra is not installed, an operator cannot be exported, the float outputs
            differ from PyTorch's, the calibration images are too few, or the file cannot be written.
            Nothing is written then.
    """
    try:
        import onnx  # noqa: F401  here: optional packages
        import onnxruntime  # noqa: F401  opened by load_session
        import onnxscript  # noqa: F401  used by PyTorch's exporter
    except ModuleNotFoundError as error:
        raise UserError(f'{INSTALL} (no module {error.name})') from error
    inputs = None
    if calibration is not None:
        inputs = int8.read_calibration_images(calibration, exportable.size, exportable.preprocessing)
    images = sample_images(exportable.size, exportable.preprocessing)
    data = to_onnx(exportable, images[0]).SerializeToString()
    session = load_session(data)
    for image in images:
        with torch.no_grad():
            expected = int8.as_arrays(exportable.graph(image))
        difference = _difference(exportable, expected, session.run(None, {'image': image.numpy()}))
        if difference:
            raise UserError(
                f'{exportable.arch}: the exported file differs from PyTorch ({difference}); not written'
            )
    metadata = _metadata(exportable)
    if inputs is not None:
        float_data, data = data, int8.quantize(data, inputs)
        metadata['precision'] = 'int8'
        metadata['calibration_images'] = len(inputs)
        if exportable.what != 'detector':
            metadata['int8_difference'] = int8.difference(float_data, data, inputs)
        if evaluate is not None:
            models = {'float32': float_data, 'int8': data}
            metadata['int8_accuracy'] = evaluate(
                {name: _with_metadata(model, metadata) for name, model in models.items()}
            )
    write_whole(out, _with_metadata(data, metadata))
    return metadata


def _with_metadata(data: bytes, metadata: Mapping[str, Any]) -> bytes:
    """Return an ONNX model with metadata, each value as JSON."""
    import onnx  # here: an optional package

    model = onnx.load_from_string(data)
    onnx.helper.set_model_props(model, {key: json.dumps(value) for key, value in metadata.items()})
    return model.SerializeToString()


def to_onnx(exportable: Exportable, image: Tensor) -> Any:
    """Return the ONNX model of a network for images of the given shape, or of any size if it is dynamic.

    Raises:
        UserError: The network cannot be exported.
    """
    dynamic_shapes = None
    if exportable.dynamic:
        sides = (torch.export.Dim(name, min=32, max=LARGEST_SIDE) for name in ('height', 'width'))
        dynamic_shapes = (dict(zip((2, 3), sides, strict=True)),)
        # PyTorch takes a side of 1 in any feature map for a constant.
        image = torch.zeros(1, 3, 320, 384)
    log = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        warnings.simplefilter('ignore')
        try:
            program = torch.onnx.export(
                exportable.graph,
                (image,),
                dynamo=True,
                verbose=False,
                opset_version=OPSET,
                input_names=['image'],
                output_names=list(exportable.outputs),
                dynamic_shapes=dynamic_shapes,
            )
        except Exception as error:  # the exporter has no common class for what it cannot do
            cause = error.__cause__ or error
            reason = ' '.join(str(cause).split())[:200]
            raise UserError(f'{exportable.arch} cannot be exported: {reason}') from error
    assert program is not None
    return program.model_proto


def _metadata(exportable: Exportable) -> dict[str, Any]:
    height, width = exportable.size
    return {
        'arch': exportable.arch,
        'what': exportable.what,
        'input': _describe(exportable.preprocessing),
        'size': 'any' if exportable.dynamic else [height, width],
        'classes': list(exportable.classes),
        'source': exportable.source.name if exportable.source else 'random weights',
        'source_sha256': file_sha256(exportable.source) if exportable.source else None,
        'opset': OPSET,
        'precision': 'fp32',
    }


def sample_images(
    size: Sequence[int], preprocessing: Preprocessing | None = None, count: int = 4
) -> list[Tensor]:
    """Return images (1, 3, H, W) float32 of the data set 'shapes': preprocessed, or BGR pixels."""
    height, width = size
    images = []
    for number in range(count):
        drawn, _ = shapes.draw_image(shapes.Spec(), 'test', number)
        image = torch.from_numpy(cv2.resize(drawn, (width, height))).permute(2, 0, 1)[None].float()
        if preprocessing is not None:
            if preprocessing.channel_order == 'rgb':
                image = image.flip(1)
            mean, std = (torch.tensor(v).view(3, 1, 1) for v in (preprocessing.mean, preprocessing.std))
            image = (image - mean) / std
        images.append(image.contiguous())
    return images


def _difference(exportable: Exportable, expected: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> str:
    """Return in words how two outputs differ beyond the tolerance; '' if they do not."""
    if exportable.what != 'detector':
        for name, one, other in zip(exportable.outputs, expected, found, strict=True):
            if one.shape != other.shape:
                return f'{name} has shape {other.shape}, expected {one.shape}'
            relative = float(np.abs(one - other).max() / max(np.abs(one).max(), 1e-12))
            if not relative <= RELATIVE_TOLERANCE:
                return f'{name} by {relative:.2g} of its largest value'
        return ''
    (boxes, scores, labels), (own_boxes, own_scores, own_labels) = expected, found
    for box, score, label in zip(boxes, scores, labels, strict=True):
        if score == 0:
            break
        same = (own_labels == label) & (np.abs(own_scores - score) <= SCORE_TOLERANCE)
        same &= np.abs(own_boxes - box).max(1) <= PIXEL_TOLERANCE
        if not same.any():
            return f'a detection of score {score:.3f} is missing'
    if (own_scores > 0).sum() != (scores > 0).sum():
        return f'{(own_scores > 0).sum()} detections, expected {(scores > 0).sum()}'
    return ''


def _describe(preprocessing: Preprocessing | None) -> str:
    if preprocessing is None:
        return 'BGR, pixels from 0 to 255, resized as in the test pipeline of the run'
    mean, std = (', '.join(f'{x:g}' for x in v) for v in (preprocessing.mean, preprocessing.std))
    return f'{preprocessing.channel_order.upper()}, (pixel - [{mean}]) / [{std}], pixels from 0 to 255'
