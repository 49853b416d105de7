"""The two halves of a network in a detector, for every row of data: backbone and stage head.

``CompactBackbone(arch, out_strides=(16,))`` is the network up to stride 16. ``StageHead(arch)`` is the next
stage with stride 1, which Faster R-CNN C4 applies to each RoI. Both use the parameter names of the whole
classification network (``stem.*``, ``stage8.*``, ... ``head.*``), so one classification checkpoint
initializes both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from mmdet.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor, nn

from backbones.layers import LinearHead
from backbones.row_check import Part, check_row
from backbones.spec import Arch, Conventions, Stage, UnitStage, get_arch, register_archs

BN_POLICIES = {
    'train': 'batch statistics, affine trained',
    'eval': 'running statistics frozen, affine trained',
    'frozen': 'running statistics and affine frozen',
}


class _Half(BaseModule):
    """Common base of backbone and stage head: row, BN policy, freezing."""

    def __init__(
        self,
        arch: str | Arch,
        bn_policy: str,
        conventions: Conventions | Mapping[str, Any] | None,
        init_cfg: dict | None,
    ):
        super().__init__(init_cfg=init_cfg)
        if bn_policy not in BN_POLICIES:
            raise ValueError(f'bn_policy={bn_policy!r}; it is one of {[*BN_POLICIES]}')
        self.arch = get_arch(arch)
        self.family = family_of(self.arch)
        self.bn_policy = bn_policy
        if not isinstance(conventions, Conventions):
            conventions = Conventions(**(conventions or {}))
        self.conventions = conventions
        unknown = conventions.changed() - self.family.takes_conventions
        if unknown:
            form = ', '.join(f'{name}={getattr(conventions, name)!r}' for name in sorted(unknown))
            raise ValueError(f'{self.arch.name}: {self.arch.family} has no form with {form}')
        self._frozen: list[nn.Module] = []

    def _finish(self, frozen: Sequence[nn.Module]) -> None:
        """Initialize the parameters, then freeze modules."""
        initialize(self)
        self._frozen = list(frozen)
        for module in self._frozen:
            module.requires_grad_(False)
        if self.bn_policy == 'frozen':
            for module in self._pretrained_bns():
                module.requires_grad_(False)
        self.train()

    def _pretrained_bns(self) -> Iterator[nn.BatchNorm2d]:
        """Return every BN except those of normalized feature maps, for which there are no pretrained
        statistics.
        """
        for name, module in self.named_modules():
            if isinstance(module, nn.BatchNorm2d) and not name.startswith('taps.'):
                yield module

    def train(self, mode: bool = True) -> _Half:
        """Set the mode; frozen modules stay in evaluation mode."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        if self.bn_policy != 'train':
            for module in self._pretrained_bns():
                module.eval()
        return self


@MODELS.register_module()
class CompactBackbone(_Half):
    """The backbone of a network: (N, 3, H, W) -> one map (N, C_s, H/s, W/s) for each requested stride s.

    It is built only up to the last requested stride, so every parameter gets a gradient. Each family
    subclasses it with its table and its three ``make_*`` functions. This class itself builds any arch, and
    is used if MMDetection has a class with the family's name (``type='CompactBackbone'``).

    Args:
        arch: A name from ``list_archs()``, or a row.
        out_strides: Strides of the maps to return, increasing.
        frozen_stages: -1 freezes nothing, 0 the stem, n the stem and the first n stages.
        frozen_stride: The network is frozen up to its map at this stride, which is the same for every
            network; 0 freezes nothing. 4 is conv1 and conv2 of py-faster-rcnn's VGG, and the stem and the
            first stage of MMDetection's ResNet.
        bn_policy: 'train', 'eval' (running statistics fixed) or 'frozen' (affine parameters too).
        normalise_taps: Whether each returned map except the network's last gets BN and ReLU. For families
            with ``preactivation``, whose maps inside the network are sums without normalization. These BN
            are always trained, since a classifier has no weights for them.
        conventions: Fields of ``Conventions`` that weights from another framework need.
        init_cfg: MMEngine's initialization; ``dict(type='ClassifierWeights', checkpoint=...)`` loads the
            weights of a classifier.

    Raises:
        UnknownArchError: There is no such network.
        ValueError: The network has no map at a stride, or an argument is not valid.
        RowError: The network is not built as its row states.
    """

    is_family = False
    takes_conventions: frozenset[str] = frozenset()  # supported fields of Conventions
    preactivation = False  # True if stages end before BN and ReLU
    row_is_measured = False  # True if the row is not written by hand but measured from the network

    def __init_subclass__(
        cls, archs: Mapping[str, Arch] | Mapping[str, Callable[[], Arch]] | None = None, **kwargs: Any
    ):
        super().__init_subclass__(**kwargs)
        if archs is not None:
            cls.is_family = True
            register_archs(cls.__name__, archs)
            _FAMILIES[cls.__name__] = cls

    def __init__(
        self,
        arch: str | Arch,
        *,
        out_strides: Sequence[int] = (4, 8, 16, 32),
        frozen_stages: int = -1,
        frozen_stride: int = 0,
        bn_policy: str = 'train',
        normalise_taps: bool = False,
        conventions: Conventions | Mapping[str, Any] | None = None,
        init_cfg: dict | None = None,
    ):
        super().__init__(arch, bn_policy, conventions, init_cfg)
        if self.is_family and not isinstance(self, self.family):
            raise ValueError(f'{type(self).__name__} does not build {self.arch.name}')
        self.out_strides = tuple(out_strides)
        if not self.out_strides or list(self.out_strides) != sorted(set(self.out_strides)):
            raise ValueError(f'out_strides={self.out_strides}: give rising strides')
        for stride in self.out_strides:
            self.arch.channels(stride)
        stages = [s for s in self.arch.stages if s.stride <= self.out_strides[-1]]
        if not -1 <= frozen_stages <= len(stages):
            raise ValueError(f'frozen_stages={frozen_stages}; from -1 to {len(stages)} here')

        self.stem = self.family.make_stem(self.arch, self.conventions)
        for stage in stages:
            module = self.family.make_stage(
                self.arch, stage, native_stride(self.arch, stage), self.conventions
            )
            self.add_module(f'stage{stage.stride}', module)
        self._stages = stages
        self.taps = nn.ModuleDict() if normalise_taps else None
        if self.taps is not None:
            for stride in self.out_strides:
                if stride != self.arch.stages[-1].stride:
                    channels = self.arch.channels(stride)
                    self.taps[str(stride)] = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())
        parts = [Part('stem', self.stem, self.arch.stem_stride, self.arch.stem_channels)]
        for stage in stages:
            name = f'stage{stage.stride}'
            parts.append(Part(f'stage {stage.stride}', getattr(self, name), stage.stride, stage.channels))
        if not self.family.row_is_measured:
            check_row(self.arch, parts)
        self._finish(
            [
                part.module
                for i, part in enumerate(parts)
                if i <= frozen_stages or part.stride <= frozen_stride
            ]
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute the feature maps: (N, 3, H, W) -> a map for each of ``out_strides``, in that order.

        The output of a part is its map, or a tuple that begins with it if the next part needs more
        (ESPNetV2's image, NASNet's previous map).

        Raises:
            ValueError: The image is smaller than the last of the strides, or the network cannot take images
                of its size.
        """
        if min(x.shape[-2:]) < self.out_strides[-1]:
            raise ValueError(
                f'{self.arch.name}: an image of {x.shape[-2]}x{x.shape[-1]} pixels is smaller than the '
                f'last of out_strides={self.out_strides}'
            )
        if self.arch.size_divisor != 1:
            self.arch.check_image(*x.shape[-2:])
        carry = self.stem(x)
        maps = {self.arch.stem_stride: first(carry)}
        for stage in self._stages:
            carry = getattr(self, f'stage{stage.stride}')(carry)
            maps[stage.stride] = first(carry)
        for stride, normalise in self.taps.items() if self.taps else ():
            maps[int(stride)] = normalise(maps[int(stride)])
        return tuple(maps[stride] for stride in self.out_strides)

    @staticmethod
    def make_stem(arch: Arch, conventions: Conventions) -> nn.Module:
        """Build the stem: (N, 3, H, W) -> (N, stem_channels, H/stem_stride, W/stem_stride)."""
        raise TypeError(f'{arch.name}: its family builds it')

    @staticmethod
    def make_stage(arch: Arch, stage: Stage, stride: int, conventions: Conventions) -> nn.Module:
        """Build a stage whose first unit has ``stride``: (N, C, H, W) -> (N, C_out, H/stride, W/stride)."""
        raise TypeError(f'{arch.name}: its family builds it')

    @staticmethod
    def make_head(arch: Arch, num_classes: int, conventions: Conventions) -> nn.Module:
        """Build the classifier after the last stage: (N, C, H, W) -> (N, num_classes)."""
        return LinearHead(arch.stages[-1].channels, num_classes)


class Classifier(CompactBackbone):
    """The whole classification network: (N, 3, H, W) -> logits (N, num_classes)."""

    def __init__(
        self,
        arch: str | Arch,
        num_classes: int | None = None,
        *,
        conventions: Conventions | Mapping[str, Any] | None = None,
    ):
        arch = get_arch(arch)
        super().__init__(arch, out_strides=(arch.stages[-1].stride,), conventions=conventions)
        self.head = self.family.make_head(self.arch, num_classes or arch.num_classes, self.conventions)
        initialize(self.head)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """Compute the logits: (N, 3, H, W) -> (N, num_classes)."""
        return self.head(super().forward(x)[-1])


@MODELS.register_module()
class StageHead(_Half):
    """The stage after ``in_stride``, as Faster R-CNN C4's ``shared_head``.

    (N, C, H, W) -> (N, C_out, H/stride, W/stride). With ``stride=1`` (the papers' R-CNN subnet) every
    stride of the stage is 1 and the RoI map keeps its size; with the network's own stride it continues the
    backbone exactly.

    Args:
        arch: A name from ``list_archs()``, or a row.
        in_stride: Stride of the backbone's last map.
        stride: Stride of the stage's first unit; None for the network's own.
        bn_policy: See ``CompactBackbone``.
        conventions: See ``CompactBackbone``.
        init_cfg: See ``CompactBackbone``.

    Raises:
        UnknownArchError: There is no such network.
        ValueError: The network has no stage after ``in_stride``.
        RowError: The stage is not built as the row states.
    """

    def __init__(
        self,
        arch: str | Arch,
        *,
        in_stride: int = 16,
        stride: int | None = 1,
        bn_policy: str = 'train',
        conventions: Conventions | Mapping[str, Any] | None = None,
        init_cfg: dict | None = None,
    ):
        super().__init__(arch, bn_policy, conventions, init_cfg)
        self.stage = self.arch.stage_after(in_stride)
        if stride is None:
            stride = native_stride(self.arch, self.stage)
        self._name = f'stage{self.stage.stride}'
        self.add_module(self._name, self.family.make_stage(self.arch, self.stage, stride, self.conventions))
        if not self.family.row_is_measured:
            part = Part(
                f'stage {self.stage.stride} as stage head',
                getattr(self, self._name),
                in_stride * stride,
                self.stage.channels,
            )
            check_row(self.arch, [part], self.arch.channels(in_stride), in_stride)
        self._finish([])

    def forward(self, x: Tensor) -> Tensor:
        """Compute the map: (N, C, H, W) -> (N, C_out, H/stride, W/stride)."""
        return first(getattr(self, self._name)(x))


def first(carry: Tensor | tuple[Tensor, ...]) -> Tensor:
    """Return the feature map in the output of a part."""
    return carry if isinstance(carry, Tensor) else carry[0]


def native_stride(arch: Arch, stage: Stage) -> int:
    """Return the stride of a stage's first unit in the whole network."""
    return stage.stride // arch.stride_before(stage)


def keeps_size(arch: Arch, stage: Stage, index: int) -> bool:
    """Return True if a unit of a stage keeps the map size in the whole network.

    A unit that does not has no identity connection there, and so none in a ``StageHead`` with stride 1.
    """
    return index > 0 or native_stride(arch, stage) == 1


def unit_stage(arch: Arch, stage: Stage, stride: int, make_unit: Callable[..., nn.Module]) -> nn.Sequential:
    """Build a stage of a family whose units have a row each (`UnitStage`).

    Args:
        arch: The network.
        stage: The stage.
        stride: Stride of its first unit; the others have stride 1.
        make_unit: Called with input channels, row, ``stride`` and ``identity``: whether the unit keeps size
            and width in the whole network, and so has an identity connection.
    """
    assert isinstance(stage, UnitStage)
    channels, units = arch.channels_before(stage), []
    for i, unit in enumerate(stage.units):
        identity = channels == unit.channels and keeps_size(arch, stage, i)
        units.append(make_unit(channels, unit, stride=1 if i else stride, identity=identity))
        channels = unit.channels
    return nn.Sequential(*units)


def initialize(module: nn.Module) -> None:
    """Initialize randomly: He's normal by fan-out for convolutions, ones and zeros for BN, 0.01 for linear
    layers.

    MENet's authors use He's initialization by fan-out. Here the fan-out of a grouped convolution is that of
    one group (PyTorch counts all outputs, which makes depthwise weights nearly zero).
    """
    for layer in module.modules():
        if any(parameter.is_meta for parameter in layer.parameters(recurse=False)):
            continue  # nothing to initialize
        if isinstance(layer, nn.Conv2d):
            fan_out = math.prod(layer.kernel_size) * layer.out_channels // layer.groups
            nn.init.normal_(layer.weight, 0, math.sqrt(2 / fan_out))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d) and layer.affine:
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, 0, 0.01)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


_FAMILIES: dict[str, type[CompactBackbone]] = {}


def family_of(arch: Arch) -> type[CompactBackbone]:
    """Return the registered class that builds a network."""
    return _FAMILIES[arch.family]


def build_backbone(
    name: str | Arch, out_strides: Sequence[int] = (4, 8, 16, 32), **kwargs: Any
) -> CompactBackbone:
    """Build the backbone of a network; ``kwargs`` are those of ``CompactBackbone``.

    Raises:
        UnknownArchError: There is no such network.
        ValueError: The network has no map at a stride.
    """
    arch = get_arch(name)
    return family_of(arch)(arch, out_strides=out_strides, **kwargs)


def config_type(arch: Arch) -> str:
    """Return the ``type`` of a network's class in a config.

    It is the name of the family, or ``CompactBackbone`` if MMDetection has a class of that name.
    """
    return arch.family if MODELS.get(arch.family) is family_of(arch) else 'CompactBackbone'


def build_classifier(name: str | Arch, num_classes: int | None = None, **kwargs: Any) -> Classifier:
    """Build the whole classification network, by default with the published number of classes (1000 for
    ImageNet).

    ``kwargs`` are those of ``Classifier``.

    Raises:
        UnknownArchError: There is no such network.
    """
    return Classifier(name, num_classes, **kwargs)
