"""The rows that define networks, and their registry.

The file of a family contains one table, ``ARCHS``, whose rows can be compared with the paper's table. This
module defines the fields of a row and is the only reader of the tables.
"""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol


@dataclass(frozen=True)
class Stage:
    """All units of a network at one output stride.

    Attributes:
        stride: Input pixels per output pixel, counted from the image.
        channels: Output channels.
        depth: Number of units.
    """

    stride: int
    channels: int
    depth: int = 1


@dataclass(frozen=True)
class UnitStage(Stage):
    """A stage whose units differ.

    Attributes:
        units: One row per unit, of the family's own class.
    """

    units: tuple[Any, ...] = ()


class UnitRow(Protocol):
    """A row for one unit. Families have their own columns; all have the output channels."""

    @property
    def channels(self) -> int:
        """Output channels."""


def stages_of(units: Iterable[tuple[int, UnitRow]]) -> tuple[UnitStage, ...]:
    """Return one stage per stride for units with their output strides, in the order of a paper's table."""
    stages: dict[int, list[UnitRow]] = {}
    for stride, unit in units:
        stages.setdefault(stride, []).append(unit)
    return tuple(
        UnitStage(stride, rows[-1].channels, len(rows), tuple(rows)) for stride, rows in stages.items()
    )


@dataclass(frozen=True)
class Preprocessing:
    """Preprocessing of the images with which a set of weights was trained.

    Attributes:
        channel_order: 'rgb' or 'bgr'.
        mean: Mean of each channel that is subtracted, for pixels from 0 to 255.
        std: Standard deviation of each channel by which the result is divided.
    """

    channel_order: str = 'rgb'
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)

    def __post_init__(self) -> None:
        if self.channel_order not in ('rgb', 'bgr'):
            raise ValueError(f"channel_order={self.channel_order!r}; it is 'rgb' or 'bgr'")
        object.__setattr__(self, 'mean', tuple(map(float, self.mean)))
        object.__setattr__(self, 'std', tuple(map(float, self.std)))
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(f'mean={self.mean}, std={self.std}: three numbers each, std above 0')


@dataclass(frozen=True)
class Conventions:
    """Differences between PyTorch's defaults and the framework that trained a set of weights.

    Attributes:
        padding: 'symmetric' (PyTorch) or 'same' (TensorFlow: pads so that the output is the input
            divided by the stride, rounded up; with stride 2 on an even size that is right and bottom only).
        activation: 'relu' or 'relu6', in place of the paper's ReLU.
        bn_eps: Epsilon of every batch normalization.
        sparsity: 'masked' (training form of learned sparsity: full weights times masks) or 'converted'
            (test-time form: index and standard group convolution).
    """

    padding: str = 'symmetric'
    activation: str = 'relu'
    bn_eps: float = 1e-5
    sparsity: str = field(default='masked', repr=False)  # does not concern the input

    def __post_init__(self) -> None:
        if self.padding not in ('symmetric', 'same'):
            raise ValueError(f"padding={self.padding!r}; it is 'symmetric' or 'same'")
        if self.activation not in ('relu', 'relu6'):
            raise ValueError(f"activation={self.activation!r}; it is 'relu' or 'relu6'")
        if self.sparsity not in ('masked', 'converted'):
            raise ValueError(f"sparsity={self.sparsity!r}; it is 'masked' or 'converted'")

    def changed(self) -> set[str]:
        """Return the names of the fields that differ from PyTorch's defaults."""
        return {f.name for f in fields(self) if getattr(self, f.name) != f.default}


# Operations that papers count as multiply-adds ("FLOPs"); none counts BN.
COUNTING_CONVENTIONS = {
    'conv+fc': 'convolutions and fully connected layers',
    'conv+fc+elementwise': 'also ReLU inputs, the elements in average-pool windows, 2 a sigmoid input',
}


@dataclass(frozen=True, kw_only=True)
class Arch:
    """One network: a row of its family's table.

    Attributes:
        paper: Source of the network: arXiv id and table.
        stem_channels: Channels after the stem.
        stem_stride: Stride after the stem (its pooling included).
        stages: The stages, in order of stride.
        paper_mflops: Published millions of multiply-adds at ``input_size``, or None.
        paper_params_m: Published millions of parameters, or None.
        paper_convention: Operations in the published multiply-adds: a name from ``COUNTING_CONVENTIONS``.
        input_size: Side of the square image for the costs, in pixels.
        num_classes: Number of classes of the published classifier.
        cost_note: Reason of a difference between measured and published cost.
        preprocessing: Preprocessing of the authors' weights.
        split_strides: Strides after which the rest of the network needs only the map there, as required
            for the stage head of Faster R-CNN C4; None for all.
        size_divisor: Both sides of an image must be multiples of it; None if only images of ``input_size``
            can be used.
        name: Name, set on registration.
        family: Name of the registered class, set on registration.
    """

    paper: str
    stem_channels: int
    stem_stride: int
    stages: tuple[Stage, ...]
    paper_mflops: float | None = None
    paper_params_m: float | None = None
    paper_convention: str = 'conv+fc'
    input_size: int = 224
    num_classes: int = 1000
    cost_note: str = ''
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    split_strides: tuple[int, ...] | None = None
    size_divisor: int | None = 1
    name: str = ''
    family: str = ''

    def __post_init__(self) -> None:
        if self.paper_convention not in COUNTING_CONVENTIONS:
            raise ValueError(
                f'{self.name}: paper_convention={self.paper_convention!r}; one of {[*COUNTING_CONVENTIONS]}'
            )

    @property
    def strides(self) -> dict[int, int]:
        """All feature maps: ``{stride: channels}``. A stage replaces a stem of the same stride."""
        return {self.stem_stride: self.stem_channels} | {s.stride: s.channels for s in self.stages}

    def channels(self, stride: int) -> int:
        """Return the channels of the map at a stride.

        Raises:
            ValueError: The network has no map at that stride.
        """
        if stride not in self.strides:
            raise ValueError(f'{self.name} has no map at stride {stride}; it has {[*self.strides]}')
        return self.strides[stride]

    def stage_after(self, stride: int) -> Stage:
        """Return the first stage beyond a stride, if it needs only the map at that stride.

        Raises:
            ValueError: There is no such stage, no stage ends at that stride, or the next one needs more.
        """
        self.channels(stride)
        if self.split_strides is not None and stride not in self.split_strides:
            raise ValueError(
                f'{self.name} is no sequence after stride {stride}: what follows takes more than that one '
                'map, which Faster R-CNN C4 cannot hand on; FPN and RetinaNet can have its maps'
            )
        for stage in self.stages:
            if stage.stride > stride:
                return stage
        raise ValueError(f'{self.name} has no stage after stride {stride}; its last is there')

    def check_image(self, height: int, width: int) -> None:
        """Raise ValueError if the network cannot take images of a size, in pixels."""
        if self.size_divisor is None and (height, width) != (self.input_size, self.input_size):
            raise ValueError(
                f'{self.name} takes images of {self.input_size}x{self.input_size} pixels only, not of '
                f'{height}x{width}'
            )
        if self.size_divisor and (height % self.size_divisor or width % self.size_divisor):
            raise ValueError(
                f'{self.name} takes images whose sides are multiples of {self.size_divisor} pixels, not of '
                f'{height}x{width}'
            )

    def channels_before(self, stage: Stage) -> int:
        """Return the channels that enter a stage."""
        index = self.stages.index(stage)
        return self.stages[index - 1].channels if index else self.stem_channels

    def stride_before(self, stage: Stage) -> int:
        """Return the stride of the map that enters a stage."""
        index = self.stages.index(stage)
        return self.stages[index - 1].stride if index else self.stem_stride


class UnknownArchError(KeyError):
    """No network has this name. The message lists similar names."""

    def __str__(self) -> str:
        return str(self.args[0])


_ARCHS: dict[str, Arch | Callable[[], Arch]] = {}
_LIBRARIES: dict[str, Callable[[str], Arch]] = {}


def register_library(library: str, measure: Callable[[str], Arch]) -> None:
    """Make ``LIBRARY:NAME`` an arch for every name; ``measure`` returns the row of the whole string."""
    _LIBRARIES[library] = measure


def register_archs(family: str, archs: Mapping[str, Arch] | Mapping[str, Callable[[], Arch]]) -> None:
    """Register the rows of a family's table; a row that is a function is called when it is first needed.

    Raises:
        ValueError: A name is already registered, or the strides of a row do not increase.
    """
    for name, arch in archs.items():
        if name in _ARCHS:
            raise ValueError(f'arch {name!r} is in both {get_arch(name).family} and {family}')
        if not isinstance(arch, Arch):
            _ARCHS[name] = arch
            continue
        strides = [arch.stem_stride, *(stage.stride for stage in arch.stages)]
        if strides[1:] != sorted(set(strides[1:])) or strides[0] > strides[1]:
            raise ValueError(f'arch {name!r}: strides {strides} do not increase')
        _ARCHS[name] = replace(arch, name=name, family=family)


def list_archs(pattern: str = '*') -> list[str]:
    """Return the names of the networks that match a shell pattern, in the order of the tables."""
    return [name for name in _ARCHS if fnmatch.fnmatchcase(name, pattern)]


def get_arch(name: str | Arch) -> Arch:
    """Return the row of a network. An ``Arch`` is returned unchanged.

    Raises:
        UnknownArchError: There is no such name. The message lists similar names.
    """
    if isinstance(name, Arch):
        return name
    library = str(name).partition(':')[0]
    if ':' in str(name) and library in _LIBRARIES:
        return _LIBRARIES[library](name)
    if name not in _ARCHS:
        near = difflib.get_close_matches(str(name), _ARCHS, n=4, cutoff=0.5)
        hint = f'near: {", ".join(near)}' if near else 'backbones.list_archs() has them all'
        raise UnknownArchError(f'unknown arch {name!r}; {hint}')
    row = _ARCHS[name]
    if not isinstance(row, Arch):
        row = _ARCHS[name] = row()
    return row
