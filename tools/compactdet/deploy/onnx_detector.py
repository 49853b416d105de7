"""An exported detector in place of the PyTorch one, for tools/test.py."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import nn

from compactdet.errors import UserError


class OnnxDetector(nn.Module):
    """Run a detector that tools/export.py wrote, on batches of an MMDetection data loader.

    Args:
        path: The ONNX file.
        classes: The classes of the data set, which must be those of the file.

    Attributes:
        metadata: What the file was made from; see `compactdet.deploy.onnx_export`.

    Raises:
        UserError: ONNX Runtime is not installed or cannot load the file, the file is no detector of
            tools/export.py, or it has other classes.
    """

    def __init__(self, path: Path, classes: Sequence[str]) -> None:
        super().__init__()
        self.path = path
        self.session = load_session(path)
        self.metadata = read_metadata(path, self.session)
        if self.metadata['what'] != 'detector':
            raise UserError(f'{path} holds a {self.metadata["what"]}, not a detector')
        if list(classes) != self.metadata['classes']:
            own, given = ', '.join(self.metadata['classes']), ', '.join(classes)
            raise UserError(f'{path} detects {own}; the data set has {given}')

    def test_step(self, batch: Mapping[str, Any]) -> list[DetDataSample]:
        """Detect in each image of a batch; boxes are in pixels of the original image."""
        return [
            self._detect(image, sample)
            for image, sample in zip(batch['inputs'], batch['data_samples'], strict=True)
        ]

    val_step = test_step

    def _detect(self, image: torch.Tensor, sample: DetDataSample) -> DetDataSample:
        size = [*image.shape[1:]]
        if self.metadata['size'] not in ('any', size):
            height, width = self.metadata['size']
            raise UserError(
                f'{self.path} takes images of {height}x{width} pixels, but the test pipeline gives '
                f'{size[0]}x{size[1]}; export it with --dynamic'
            )
        found = self.session.run(None, {'image': image[None].float().numpy()})
        boxes, scores, labels = (torch.from_numpy(value) for value in found)
        real = scores > 0
        scale = torch.tensor(sample.scale_factor, dtype=boxes.dtype).repeat(2)
        sample.pred_instances = InstanceData(
            bboxes=boxes[real] / scale, scores=scores[real], labels=labels[real]
        )
        return sample


def load_session(model: Path | bytes, threads: int | None = None) -> Any:
    """Open an ONNX model in ONNX Runtime on the CPU.

    Args:
        model: A file, or its content.
        threads: Number of threads; None for ONNX Runtime's default.

    Raises:
        UserError: ONNX Runtime is not installed, or it cannot load the model.
    """
    try:
        import onnxruntime  # here: an optional package
    except ModuleNotFoundError as error:
        raise UserError('running an ONNX file needs ONNX Runtime: pip install -e ".[export]"') from error
    if isinstance(model, Path) and not model.is_file():
        raise UserError(f"'{model}': no such file")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(model, options, providers=['CPUExecutionProvider'])
    except Exception as error:  # ONNX Runtime's classes of errors have no common base but this
        name = model if isinstance(model, Path) else 'the exported network'
        reason = ' '.join(str(error).split())[:200]
        raise UserError(f'{name}: ONNX Runtime cannot load it: {reason}') from error


def read_metadata(path: Path, session: Any) -> dict[str, Any]:
    """Return the metadata that tools/export.py wrote into a file.

    Raises:
        UserError: The file has none.
    """
    properties = session.get_modelmeta().custom_metadata_map
    try:
        metadata = {key: json.loads(value) for key, value in properties.items()}
    except ValueError:
        metadata = {}
    if not {'arch', 'what', 'size', 'classes'} <= {*metadata}:
        raise UserError(f'{path} has no metadata of tools/export.py; export the network with it')
    return metadata
