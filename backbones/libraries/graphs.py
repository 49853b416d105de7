"""Split any classification network at its strides: a stem, a part for each stride, a classifier.

The forward pass is recorded as a graph of layers (``torch.fx``), run once on the meta device for the
shapes, and cut where the stride of the maps changes. The cuts follow the modules of the library:

- A cut is never inside a module that continues at a larger stride. So a block that first expands its input
  and then downsamples belongs completely to the later part (MobileNetV2's maps have 16, 24, 32, 96
  channels). Containers, and modules that contain complete residual blocks of the smaller stride, may be
  cut.
- Of the remaining cuts, the one that passes on the fewest values, then the last.
- After the last stage come the classifier and layers that serve only it: pools, and single 1x1
  convolutions, as in the suite's own families (timm's ``feature_info`` counts some of them: MobileNetV3's
  960 channels).
"""

from __future__ import annotations

import operator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import fx, nn

from backbones.libraries.tracing import GraphError, Recording, channels_of, is_channels_last

# Layers of a block before the strided one: expansion, or a first convolution and the expansion.
MAX_LAYERS_BEFORE = 3
# With more layers, the rest is not a classifier (vision transformers).
MAX_CLASSIFIER_LAYERS = 8


@dataclass(frozen=True)
class Cut:
    """The end of a part of the network.

    Attributes:
        stride: Stride of the map.
        channels: Channels of the map.
        last: Number of the last node of the part.
        taps: The map, or the pieces whose concatenation it is.
        values: Values that the rest of the network needs.
        channels_last: Whether the library's map is (N, H, W, C).
    """

    stride: int
    channels: int
    last: int
    taps: tuple[fx.Node, ...]
    values: tuple[fx.Node, ...]
    channels_last: bool

    @property
    def is_one_map(self) -> bool:
        """True if the rest of the network needs only the map."""
        return len(self.values) == 1


class Dissection(Recording):
    """A network's forward pass with its cuts; arguments as ``Recording``.

    Attributes:
        cuts: Ends of stem and stages.

    Raises:
        GraphError: See ``Recording``; or the network has no maps at increasing strides.
    """

    def __init__(self, network: nn.Module, size: int):
        super().__init__(network, size)
        self.cuts = self._find_cuts()

    def _is_inside_block(self, i: int, stride: int) -> bool:
        """Return True if a cut after node ``i`` is inside a block that continues at a larger stride."""
        for call in self.open_calls(i):
            nodes = self.calls[call]
            if not any(n > i and self.strides[n] > stride for n in nodes):
                continue
            before = [n for n in nodes if n <= i]
            if not any(self.weighted[n] for n in before):
                return True  # the rest begins with a normalization of its input
            if self.is_block(call) and not (
                any(self._is_sum(n, stride, nodes) for n in before) or self._is_stem(nodes, i, stride)
            ):
                return True
        return False

    def _is_stem(self, nodes: list[int], i: int, stride: int) -> bool:
        """Return True if a module with ``nodes`` makes the maps of the stride and pools after ``i``."""
        inputs = {self.strides[self.number[n]] for n in self.nodes[nodes[0]].all_input_nodes}
        return stride not in inputs and not any(self.weighted[n] for n in nodes if n > i)

    def _is_sum(self, i: int, stride: int, nodes: list[int]) -> bool:
        """Return True if node ``i`` ends a residual block of ``nodes``: x + f(x), a map of the stride."""
        node = self.nodes[i]
        if node.target not in (operator.add, torch.add, 'add', 'add_') or self.strides[i] != stride:
            return False
        terms = [n for n in node.all_input_nodes if self.number[n] in nodes]
        return len(terms) == 2 and (self.depends(*terms) or self.depends(*reversed(terms)))

    def _find_cuts(self) -> list[Cut]:
        end = self._end()
        reached: dict[int, list[int]] = {}
        for i in range(end + 1):
            strides = [self.strides[self.number[n]] for n in self.live[i] if n in self.learned] or [0]
            if any(strides) and not self._is_inside_block(i, max(strides)):
                reached.setdefault(max(strides), []).append(i)
        cuts: list[Cut] = []
        for stride in sorted(reached):
            if cuts:
                reached[stride] = [i for i in reached[stride] if i > cuts[-1].last]
            if reached[stride]:
                last = stride == max(reached)
                cuts.append(self._cut(stride, end if last else self._best(reached[stride], stride)))
        if len(cuts) < 2:
            found = f'only one, at stride {cuts[0].stride}' if cuts else 'none'
            raise GraphError(f'it makes no maps at rising strides 2, 4, 8, ... ({found})')
        layers = sum(self.weighted[end + 1 :])
        if layers > MAX_CLASSIFIER_LAYERS:
            raise GraphError(
                f'after its last map, at stride {cuts[-1].stride}, it has {layers} more layers on '
                'tokens, which are no maps'
            )
        return cuts

    def _best(self, numbers: list[int], stride: int) -> int:
        """Return, of the last possible cuts at a stride, the one that passes on the fewest values, then the
        last.
        """
        after, near = 0, []
        for i in range(numbers[-1], numbers[0] - 1, -1):
            if i in numbers:
                near.append(i)
            after += self.weighted[i] and self.strides[i] == stride
            if after > MAX_LAYERS_BEFORE:
                break
        return min(near, key=lambda i: (len(self.live[i]), -i))

    def _cut(self, stride: int, last: int) -> Cut:
        """Return the cut after a node; the map is the largest of the values with the stride."""
        values = self.live[last]
        maps = [n for n in values if self.strides[self.number[n]] == stride and n in self.learned]
        tap = max(reversed(maps), key=channels_of)
        # a block may return its map in pieces (dual path networks)
        taps = [n for n in maps if n.meta['owners'] and n.meta['owners'] == tap.meta['owners']]
        return Cut(
            stride=stride,
            channels=sum(map(channels_of, taps or [tap])),
            last=last,
            taps=tuple(taps or [tap]),
            values=tuple(values),
            channels_last=is_channels_last(tap),
        )

    def _end(self) -> int:
        """Return the node that ends the last stage."""
        maps = [i for i, s in enumerate(self.strides) if s]
        layers = [i for i in range(maps[-1] + 1) if self.weighted[i]] if maps else []
        served = []
        while len(layers) > 1 and self._serves_classifier(layers):
            served.append(layers.pop())
        if not layers:
            raise GraphError('it makes no maps at strides 1, 2, 4, 8, ...')
        for end in range(layers[-1], len(self.nodes)):
            values = self.live[end]
            blocks = [c for c in self.open_calls(end) if self.is_block(c)]
            ended = all(self._serves(c, served) for c in blocks)
            if ended and len(values) == 1 and self.strides[self.number[values[0]]]:
                break
        else:
            raise GraphError('it does not end with a map (N, C, H, W), but with tokens or several maps')
        for i in range(end + 1, len(self.nodes)):  # normalization and activation of the last map
            if not self._finishes(self.nodes[i], self.live[end][0]):
                break
            if len(self.live[i]) == 1:
                end = i
        return end

    def _serves(self, call: tuple[int, str], served: list[int]) -> bool:
        """Return True if a block contains layers of the classifier, or a pool of the whole map."""
        nodes = self.calls[call]
        return not self.strides[nodes[-1]] or not set(served).isdisjoint(nodes)

    def _serves_classifier(self, layers: list[int]) -> bool:
        """Return True if the last layer is a 1x1 convolution that is alone, or follows a whole unit."""
        node, conv = self.nodes[layers[-1]], self.conv(layers[-1])
        if conv is None or conv.kernel_size != (1, 1) or conv.groups > 1:
            return False
        if len(self.live[layers[-1]]) > 1:
            return False
        blocks = [c for c in node.meta['owners'] if self.is_block(c)]
        if blocks and not any(i in self.calls[blocks[0]] for i in layers[:-1]):
            return True
        previous = next(i for i in reversed(layers[:-1]) if self.strides[i])
        before = self.conv(previous)
        if before is None or before.groups > 1:
            return False  # part of a separable convolution
        if not blocks:
            return True
        source = node.all_input_nodes
        while len(source) == 1 and source[0] is not self.nodes[previous]:
            source = source[0].all_input_nodes
        unit = [c for c in self.nodes[previous].meta['owners'] if c not in node.meta['owners']]
        return len(source) == 1 and any(sum(self.weighted[i] for i in self.calls[c]) > 1 for c in unit)

    def _finishes(self, node: fx.Node, value: fx.Node) -> bool:
        """Return True if an operation normalizes or activates a map."""
        name = str(node.target)
        if node.op == 'call_module':
            name = type(self.module.get_submodule(name)).__name__
        elif callable(node.target):
            name = node.target.__name__
        others = ('pool', 'drop', 'flatten', 'mean', 'conv', 'linear', 'view', 'reshape', 'pad')
        return node.meta['shape'] == value.meta['shape'] and not any(o in name.lower() for o in others)

    def part(self, number: int, network: nn.Module | None = None) -> fx.GraphModule:
        """Return the stem (0), a stage or the classifier (the last), sharing the modules of ``network``.

        It takes and returns one map (N, C, H, W), or a tuple of the map and further values.
        """
        network = self.network if network is None else network
        before = self.cuts[number - 1] if number else None
        after = self.cuts[number] if number < len(self.cuts) else None
        graph = fx.Graph()
        known: dict[fx.Node, fx.Node] = {}
        numbers = range(before.last + 1 if before else 1, after.last + 1 if after else len(self.nodes))
        carry = graph.placeholder('carry')

        def fetch(node: fx.Node) -> fx.Node:
            if node not in known:
                known[node] = graph.node_copy(node, fetch)
            return known[node]

        if before is None:
            known[self.nodes[0]] = carry
        elif before.is_one_map:
            order = (carry, 0, 2, 3, 1)
            known[before.values[0]] = graph.call_method('permute', order) if before.channels_last else carry
        else:
            for i, value in enumerate(before.values, 1):
                known[value] = graph.call_function(operator.getitem, (carry, i))
        written = [m for i in numbers for m in self.writes.get(self.nodes[i], ()) if m in known]
        for node in dict.fromkeys(written):
            known[node] = graph.call_method('clone', (known[node],))  # the caller has it too
        for i in numbers:
            if self.nodes[i] not in self.constants:
                fetch(self.nodes[i])
        if after is None:
            _pool_whole_maps(graph, network)
            graph.output(known[self.logits])
        else:
            tap = known[after.taps[0]]
            if len(after.taps) > 1:
                tap = graph.call_function(torch.cat, ([known[t] for t in after.taps], 1))
            if after.channels_last:
                tap = graph.call_method('permute', (tap, 0, 3, 1, 2))
            values = (known[value] for value in after.values)
            graph.output(tap if after.is_one_map else (tap, *values))
        part = fx.GraphModule(network, graph)
        _dropout_as_layers(part)
        saved = network.state_dict()
        for name, _ in part.named_buffers():
            if name not in saved:  # the names of the library
                owner, _, leaf = name.rpartition('.')
                part.get_submodule(owner)._non_persistent_buffers_set.add(leaf)
        return part


def _dropout_as_layers(part: fx.GraphModule) -> None:
    """Replace recorded calls of ``F.dropout``, which know the mode while recording only, by layers."""
    for node in part.graph.find_nodes(op='call_function', target=F.dropout):
        rate = node.args[1] if len(node.args) > 1 else node.kwargs.get('p', 0.5)
        part.add_module(f'{node.name}_layer', nn.Dropout(rate))
        node.op, node.target = 'call_module', f'{node.name}_layer'
        node.args, node.kwargs = node.args[:1] or (node.kwargs['input'],), {}
    part.recompile()


def _pool_whole_maps(graph: fx.Graph, network: nn.Module) -> None:
    """Replace an average over the whole map of the native image size by one over maps of any size."""
    for node in [*graph.nodes]:
        pool = network.get_submodule(str(node.target)) if node.op == 'call_module' else None
        if isinstance(pool, nn.AvgPool2d) and node.meta['shape'][2:] == (1, 1):
            node.op, node.target, node.args, node.kwargs = (
                'call_function',
                F.adaptive_avg_pool2d,
                (node.args[0], 1),
                {},
            )
