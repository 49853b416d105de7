"""Static int8 quantization of an exported network by ONNX Runtime.

Weights of convolutions and fully connected layers are quantized per output channel, their inputs per
tensor, both symmetric and signed. The ranges of the inputs come from calibration images. Quantization
changes the outputs: measure the accuracy of the result before you use it.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from backbones.spec import Preprocessing
from compactdet.deploy.onnx_detector import load_session
from compactdet.errors import UserError

QUANTIZED = ('Conv', 'Gemm', 'MatMul')
FEWEST, MOST = 16, 256  # calibration images
SUFFIXES = {'.jpg', '.jpeg', '.png', '.bmp'}


def read_calibration_images(
    folder: Path, size: Sequence[int], preprocessing: Preprocessing | None
) -> list[np.ndarray]:
    """Read images of a folder, at any depth, as inputs (1, 3, H, W) float32 of an exported network.

    Args:
        folder: JPEG, PNG and BMP files; of more than `MOST`, evenly spaced ones are taken.
        size: Height and width to which they are resized.
        preprocessing: What is applied to the pixels; None for a detector, which takes BGR pixels.

    Raises:
        UserError: There is no such folder, it has fewer than `FEWEST` images, or a file is no image.
    """
    if not folder.is_dir():
        raise UserError(f"--calibrate '{folder}': no such folder")
    files = sorted(path for path in folder.rglob('*') if path.suffix.lower() in SUFFIXES)
    if len(files) < FEWEST:
        raise UserError(f"--calibrate '{folder}' has {len(files)} images; at least {FEWEST} are needed")
    files = [files[i] for i in np.linspace(0, len(files) - 1, min(len(files), MOST)).astype(int)]
    height, width = size
    images = []
    for file in files:
        pixels = cv2.imread(str(file), cv2.IMREAD_COLOR)
        if pixels is None:
            raise UserError(f'{file}: not a readable image; remove it from the calibration images')
        image = cv2.resize(pixels, (width, height)).astype(np.float32).transpose(2, 0, 1)
        if preprocessing is not None:
            if preprocessing.channel_order == 'rgb':
                image = image[::-1]
            mean, std = (
                np.array(v, np.float32)[:, None, None] for v in (preprocessing.mean, preprocessing.std)
            )
            image = (image - mean) / std
        images.append(np.ascontiguousarray(image[None]))
    return images


def quantize(model: bytes, images: Sequence[np.ndarray], input_name: str = 'image') -> bytes:
    """Return an ONNX model with int8 weights and activations.

    Args:
        model: The float model.
        images: Calibration inputs.
        input_name: Name of the model's input.

    Raises:
        UserError: ONNX Runtime cannot quantize the model.
    """
    from onnxruntime import quantization  # here: an optional package

    class Reader(quantization.CalibrationDataReader):
        """Yields the calibration images once."""

        def __init__(self) -> None:
            self.images: Iterator[dict[str, Any]] = iter([{input_name: image} for image in images])

        def get_next(self) -> dict[str, Any] | None:
            """Return the next input, or None at the end."""
            return next(self.images, None)

    with tempfile.TemporaryDirectory() as folder, _quiet():
        source, prepared, target = (Path(folder) / name for name in ('a.onnx', 'b.onnx', 'c.onnx'))
        source.write_bytes(model)
        try:
            quantization.quant_pre_process(source, prepared, skip_symbolic_shape=True)
            quantization.quantize_static(
                prepared,
                target,
                Reader(),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=list(QUANTIZED),
                per_channel=True,
                activation_type=quantization.QuantType.QInt8,
                weight_type=quantization.QuantType.QInt8,
                extra_options={'ActivationSymmetric': True},
            )
        except Exception as error:  # ONNX Runtime's classes of errors have no common base but this
            reason = ' '.join(str(error).split())[:200]
            raise UserError(f'ONNX Runtime cannot quantize the network: {reason}') from error
        return target.read_bytes()


def difference(model: bytes, quantized: bytes, images: Sequence[np.ndarray]) -> float:
    """Return the largest difference of the outputs over the largest output, as the median over images."""
    sessions = load_session(model), load_session(quantized)
    found = []
    for image in images[:FEWEST]:
        expected, other = (session.run(None, {session.get_inputs()[0].name: image}) for session in sessions)
        found.append(
            max(
                np.abs(a - b).max() / max(np.abs(a).max(), 1e-12)
                for a, b in zip(expected, other, strict=True)
            )
        )
    return float(np.median(found))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the log output of the quantization."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def as_arrays(outputs: Any) -> list[np.ndarray]:
    """Return the outputs of a PyTorch module as arrays."""
    outputs = (outputs,) if isinstance(outputs, torch.Tensor) else outputs
    return [value.numpy() for value in outputs]
