"""What tools/latency.py measures: networks, detectors and ONNX files on each backend.

A network is measured as its whole classifier in its test-time form with random weights, a run as its
detector with preprocessing and non-maximum suppression, an ONNX file as it is.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from compactdet.deploy import onnx_export
from compactdet.deploy.latency import Candidate
from compactdet.deploy.onnx_detector import load_session
from compactdet.errors import UserError

PYTORCH = ('eager', 'channels_last', 'compile')
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else []


class Builder:
    """Makes the candidates of one target, and exports it once for all backends that need an ONNX file.

    Args:
        target: Name of a network, an ONNX file, or the folder of a run.
        batch: Images per inference; 1 for a detector.
        size: Height and width in pixels; None for those of the run or the file, or 224 for a network.

    Raises:
        UnknownArchError: There is no such network.
        UserError: The file or run cannot be used.
    """

    def __init__(self, target: str, batch: int, size: tuple[int, int] | None) -> None:
        self.target, self.batch = target, batch
        self.exportable: onnx_export.Exportable | None = None
        self._onnx: bytes | None = None
        path = Path(target)
        if path.suffix == '.onnx':
            session = load_session(path)
            self._onnx = path.read_bytes()
            own_size = _size_of(session, path)
            self.name, self.size = path.stem, size or own_size
            _check_input(session, path, (batch, 3, *self.size))
        elif path.is_dir():
            if batch != 1:
                raise UserError(f'{target}: a detector takes one image at a time; leave --batch out')
            self.exportable = onnx_export.detector(path, size, dynamic=False)
            self.name, self.size = path.name, self.exportable.size
        else:
            self.exportable = onnx_export.classification_network('classifier', target, None, size, False)
            self.name, self.size = target, self.exportable.size
        self.image = _random_image(batch, self.size)

    @classmethod
    def of_module(cls, name: str, module: nn.Module, size: tuple[int, int]) -> Builder:
        """Return the builder of a module that takes images (1, 3, H, W)."""
        builder = cls.__new__(cls)
        builder.target = builder.name = name
        builder.batch, builder.size, builder._onnx = 1, size, None
        builder.exportable = onnx_export.Exportable(
            module.eval(), 'module', name, ('output',), None, None, (), size
        )
        builder.image = _random_image(1, size)
        return builder

    def candidate(self, backend: str, threads: int) -> Candidate:
        """Build the target on a backend.

        Raises:
            UserError: The backend is not installed, or it cannot run the target.
        """
        if backend in PYTORCH:
            run = self._pytorch(backend)
        elif backend == 'onnxruntime':
            run = self._onnxruntime(threads)
        else:
            run = self._openvino(threads)
        return Candidate(
            self.name, backend, threads, self.batch, self.size, run, lambda: use_threads(threads)
        )

    def _pytorch(self, backend: str) -> Callable[[], Any]:
        if self.exportable is None:
            raise UserError(
                f'{self.target} is an ONNX file; {backend} needs the name of a network, or a run'
            )
        network: Any = self.exportable.graph
        image = self.image
        if backend == 'channels_last':
            network = network.to(memory_format=torch.channels_last)
            image = image.to(memory_format=torch.channels_last)
        if backend == 'compile':
            network = torch.compile(network)

        def run() -> Any:
            with torch.inference_mode():
                return network(image)

        return run

    def _onnxruntime(self, threads: int) -> Callable[[], Any]:
        session = load_session(self.onnx(), threads)
        inputs = {session.get_inputs()[0].name: self.image.numpy()}
        return lambda: session.run(None, inputs)

    def _openvino(self, threads: int) -> Callable[[], Any]:
        try:
            import openvino  # here: an optional package
        except ModuleNotFoundError as error:
            raise UserError(
                'the backend openvino is not installed: pip install -e ".[openvino]"'
            ) from error
        core = openvino.Core()
        config = {'INFERENCE_NUM_THREADS': threads, 'PERFORMANCE_HINT': 'LATENCY', 'NUM_STREAMS': 1}
        try:
            model = core.compile_model(core.read_model(self.onnx()), 'CPU', config)
        except RuntimeError as error:
            reason = ' '.join(str(error).split())[:200]
            raise UserError(f'{self.target}: OpenVINO cannot run it: {reason}') from error
        request, image = model.create_infer_request(), np.ascontiguousarray(self.image.numpy())
        return lambda: request.infer({0: image})

    def onnx(self) -> bytes:
        """Return the ONNX file of the target, with a fixed input size and batch."""
        if self._onnx is None:
            assert self.exportable is not None
            self._onnx = onnx_export.to_onnx(self.exportable, self.image).SerializeToString()
        return self._onnx


def _random_image(batch: int, size: tuple[int, int]) -> torch.Tensor:
    return torch.rand(batch, 3, *size, generator=torch.Generator().manual_seed(0)) * 255


def _size_of(session: Any, path: Path) -> tuple[int, int]:
    """Return the input size of an ONNX file; 224 for sides that it leaves open."""
    shape = session.get_inputs()[0].shape
    if len(shape) != 4:
        raise UserError(f'{path}: its input has {len(shape)} dimensions, not (batch, 3, height, width)')
    height, width = (side if isinstance(side, int) else 224 for side in shape[2:])
    return height, width


def _check_input(session: Any, path: Path, shape: tuple[int, ...]) -> None:
    """Raise UserError if an ONNX file does not take images of a shape (batch, 3, height, width)."""
    expected = session.get_inputs()[0].shape
    fits = (not isinstance(own, int) or own == given for own, given in zip(expected, shape, strict=True))
    if not all(fits):
        own, given = ('x'.join(map(str, sides)) for sides in (expected, shape))
        raise UserError(
            f'{path} takes {own}, not {given} (batch, channels, height, width); see --size, --batch'
        )


@contextlib.contextmanager
def threads_restored() -> Iterator[None]:
    """Restore PyTorch's number of threads and the cores of this process at the end."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        if hasattr(os, 'sched_setaffinity'):
            os.sched_setaffinity(0, CORES)


def use_threads(threads: int) -> None:
    """Set PyTorch's number of threads and bind this process to as many cores."""
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    if hasattr(os, 'sched_setaffinity'):
        os.sched_setaffinity(0, CORES[:threads])


def peak_memory_mb(run: Callable[[], Any]) -> float | None:
    """Return the memory that the first inference takes beyond what is held before it, in MB, or None."""
    try:
        with open('/proc/self/clear_refs', 'w', encoding='ascii') as file:  # noqa: PTH123 not a regular file
            file.write('5')  # resets the peak
    except OSError:
        return None
    before = _status('VmRSS')
    run()
    peak = _status('VmHWM')
    return None if before is None or peak is None else max(0.0, (peak - before) / 1000)


def _status(name: str) -> float | None:
    for line in Path('/proc/self/status').read_text(encoding='utf-8').splitlines():
        if line.startswith(f'{name}:'):
            return int(line.split()[1]) * 1.024
    return None
