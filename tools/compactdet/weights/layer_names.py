"""Names of layers and units in the suite's networks, for tables of published layer names."""

from collections.abc import Callable, Iterator

from backbones import Arch
from backbones.spec import UnitStage
from backbones.weights import classifier_shapes

LayerNames = Callable[[Arch], dict[str, str]]  # a network -> {published layer name: the suite's}
CONV_BN = ('conv', 'bn')
NUMBERS = ('0', '1')  # the convolution and its BN in a Sequential


def own_layers(arch: Arch) -> list[str]:
    """Return the names of the layers that have entries, in the order of registration."""
    return [*dict.fromkeys(key.rpartition('.')[0] for key in classifier_shapes(arch))]


def unit_names(arch: Arch) -> list[str]:
    """Return the names of the units in order, such as ``stage8.0``."""
    return [f'stage{stage.stride}.{i}' for stage in arch.stages for i in range(stage.depth)]


def unit_parts(arch: Arch) -> dict[str, list[str]]:
    """Return the parts of each unit: ``{'stage4.0': ['expand', 'depthwise', 'se', 'project']}``."""
    parts: dict[str, dict[str, None]] = {unit: {} for unit in unit_names(arch)}
    for layer in own_layers(arch):
        stage, *rest = layer.split('.')
        if stage.startswith('stage') and len(rest) > 1:
            parts[f'{stage}.{rest[0]}'][rest[1]] = None
    return {unit: [*names] for unit, names in parts.items()}


def grouped_units(arch: Arch) -> Iterator[tuple[str, int, int]]:
    """Yield each unit with the number of its group and its number in the group.

    A group consists of consecutive units with the same number of output channels.
    """
    units, before, group, index = iter(unit_names(arch)), None, -1, 0
    for stage in arch.stages:
        widths = [u.channels for u in stage.units] if isinstance(stage, UnitStage) else None
        for width in widths or [stage.channels] * stage.depth:
            group, index = (group, index + 1) if width == before else (group + 1, 0)
            before = width
            yield next(units), group, index


def conv_bn_names(published: str, ours: str, leaves: tuple[str, str] = CONV_BN) -> dict[str, str]:
    """Return the names of a convolution and its BN.

    Args:
        published: Published prefix; may be empty.
        ours: The suite's prefix.
        leaves: Published last parts of the two names.

    Returns:
        ``{'published.0': 'ours.conv', 'published.1': 'ours.bn'}`` for ``NUMBERS``.
    """
    return {
        f'{published}.{leaf}'.lstrip('.'): f'{ours}.{own}'
        for leaf, own in zip(leaves, CONV_BN, strict=True)
    }
