"""Record the layers that a network applies to an image, in order, with the shape of every value."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from backbones.libraries.writes import Shapes, WritableProxy, describe_write, is_named_write, make_explicit

# Regularization of a training recipe, which the suite's networks do not contain.
RECIPE = {'StochasticDepth', 'DropPath', 'DropBlock2d'}
PLAIN = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
MAX_STRIDE = 64
META = torch.device('meta')


class GraphError(ValueError):
    """The network cannot be split. The message is the reason, as the end of a sentence."""


class _Tracer(fx.Tracer):
    """Tracer of layers; a module whose code depends on sizes is recorded as one node.

    Each node's ``meta['owners']`` lists the calls of modules in which it was recorded, outermost first.

    Args:
        whole: Names of other modules to record as one node.
    """

    proxy_buffer_attributes = True

    def __init__(self, whole: set[str]) -> None:
        super().__init__()
        self._whole = whole
        self._open: list[tuple[int, str]] = []
        self._calls = 0

    def create_arg(self, a: Any) -> Any:
        """Return an argument; a module that creates tensors is recorded as one node."""
        if isinstance(a, Tensor) and not any(
            a is t for t in (*self.root.parameters(), *self.root.buffers())
        ):
            raise GraphError('it makes tensors of its own')
        return super().create_arg(a)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """Return a proxy that also records assignments."""
        return WritableProxy(node, self)

    def create_args_for_root(self, root_fn: Any, *_: Any) -> tuple[Any, list[Any]]:
        """Return the network and an image; other arguments keep their defaults."""
        return root_fn, [self.root, self.create_proxy('placeholder', 'image', (), {})]

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        """Return a node with its owners."""
        node = super().create_node(*args, **kwargs)
        if node.kwargs.get('device') == META:  # of the block `with torch.device('meta')` that asked for it
            node.kwargs = {key: value for key, value in node.kwargs.items() if key != 'device'}
        node.meta['owners'] = tuple(self._open)
        return node

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Record a layer, or the operations of a module, or the module if they cannot be recorded."""
        if type(m) is nn.Identity or type(m).__name__ in RECIPE:
            return args[0]
        name = self.path_of_module(m)
        if _is_layer(m) or name in self._whole:
            return self.create_proxy('call_module', name, args, kwargs)
        self._calls += 1
        opened, recorded = list(self._open), len(self.graph.nodes)
        self._open.append((self._calls, name))
        try:
            return forward(*args, **kwargs)
        except Exception:  # its code may use an unknown size or value in any way
            for node in reversed([*self.graph.nodes][recorded:]):
                self.graph.erase_node(node)
            return self.create_proxy('call_module', name, args, kwargs)
        finally:
            self._open = opened


def _is_layer(module: nn.Module) -> bool:
    named = isinstance(module, nn.Conv2d | nn.Linear | nn.modules.batchnorm._NormBase)
    builtin = type(module).__module__.startswith('torch.nn') and not isinstance(module, PLAIN)
    return named or builtin or not any(True for _ in module.children())


class Recording:
    """The recorded forward pass of a network.

    Args:
        network: The network, on the meta device.
        size: Side of its native image in pixels.

    Attributes:
        nodes: The layers and operations, in order; the first is the image.
        logits: The output of the network.
        number: Number of each node.
        constants: Nodes that do not depend on the image: parameters and values computed from them.
        strides: Stride of each node's map; 0 for other values.
        weighted: Whether each node is a convolution or a linear layer, or contains one.
        learned: Nodes that are not just a smaller version of the image.
        calls: The nodes of each call of a module.
        live: For each node, the values that exist after it and that later nodes use.
        writes: For each node that writes into existing tensors, the earlier nodes that have them.
        lost: Writes that are not recorded, since nothing reads their results.

    Raises:
        GraphError: The network cannot be recorded or run, or returns no logits.
    """

    def __init__(self, network: nn.Module, size: int):
        self.network, self.size = network.eval(), size
        self.module, self.writes, self.lost = self._record()
        *self.nodes, output = self.module.graph.nodes
        self.logits: Any = output.args[0]
        self.number = {node: i for i, node in enumerate(self.nodes)}
        self.constants = self._find_constants()
        self.strides = [self._stride(node) for node in self.nodes]
        self.weighted = [self._has_weights(node) for node in self.nodes]
        self.learned = self._find_learned()
        self.calls = self._find_calls()
        self.live = self._find_live()

    def _record(self) -> tuple[fx.GraphModule, dict[fx.Node, list[fx.Node]], list[fx.Node]]:
        """Return the graph, its writes (see ``Shapes``), and those whose results nothing reads.

        A module with a write that the graph cannot express is recorded as one node.
        """
        whole: set[str] = set()
        while True:
            try:
                graph = _Tracer(whole).trace(self.network)
            except Exception as error:
                raise GraphError(f'its code cannot be recorded ({in_a_line(error)})') from error
            module = fx.GraphModule(self.network, graph)
            run = Shapes(module)
            try:
                with torch.no_grad():
                    logits = run.run(torch.empty(1, 3, self.size, self.size, device='meta'))
            except Exception as error:
                side = self.size
                raise GraphError(
                    f'it does not run on a {side}x{side} image ({in_a_line(error)})'
                ) from error
            if not isinstance(logits, Tensor) or logits.dim() != 2:
                raise GraphError('it does not return logits (N, classes)')
            hidden = make_explicit(run)
            if not hidden:
                recorded = [*module.graph.nodes]
                module.graph.eliminate_dead_code()
                kept = {*module.graph.nodes}
                lost = [n for n in recorded if n not in kept and (n in run.writes or is_named_write(n))]
                return module, run.writes, lost
            for write in hidden:
                if not write.meta['owners']:
                    raise GraphError(
                        f'its operation {describe_write(write)} writes into a tensor that other operations '
                        'read, which cannot be recorded'
                    )
                whole.add(write.meta['owners'][-1][1])

    def _find_constants(self) -> set[fx.Node]:
        """Return the nodes that do not depend on the image: parameters and values computed from them."""
        constants: set[fx.Node] = set()
        for node in self.nodes:
            if node.op != 'placeholder' and all(n in constants for n in node.all_input_nodes):
                constants.add(node)
        return constants

    def _stride(self, node: fx.Node) -> int:
        """Return the stride of a map; 0 for other values."""
        shape: tuple[int, ...] = node.meta.get('shape') or ()
        if len(shape) != 4 or node in self.constants or node.op == 'placeholder':
            return 0
        side = shape[1] if is_channels_last(node) else shape[2]
        if side == 1 or (side != shape[3] and not is_channels_last(node)):
            return 0
        strides = (2**power for power in range(int(math.log2(MAX_STRIDE)) + 1))
        return next((stride for stride in strides if has_stride(side, self.size, stride)), 0)

    def _has_weights(self, node: fx.Node) -> bool:
        """Return True if a node is a convolution or a linear layer, or contains one."""
        if node.op == 'call_module':
            return any(p.dim() > 1 for p in self.module.get_submodule(str(node.target)).parameters())
        name = getattr(node.target, '__name__', '')
        return node.op == 'call_function' and ('conv' in name or name == 'linear')

    def _find_learned(self) -> set[fx.Node]:
        """Return the nodes that are not just a smaller version of the image."""
        learned: set[fx.Node] = set()
        for i, node in enumerate(self.nodes):
            if self.weighted[i] or learned.intersection(node.all_input_nodes):
                learned.add(node)
        return learned

    def _find_calls(self) -> dict[tuple[int, str], list[int]]:
        """Return the nodes of each call of a module."""
        calls: dict[tuple[int, str], list[int]] = {}
        for i, node in enumerate(self.nodes):
            for call in node.meta['owners']:
                calls.setdefault(call, []).append(i)
        return calls

    def is_block(self, call: tuple[int, str]) -> bool:
        """Return True for a possible block: not a plain container, and not most of the network."""
        plain = type(self.network.get_submodule(call[1])) in PLAIN
        return not plain and len({self.strides[i] for i in self.calls[call]} - {0}) < 3

    def _find_live(self) -> list[list[fx.Node]]:
        """Return for each node the values that exist after it and that later nodes use."""
        end = len(self.nodes)
        last = {n: max((self.number.get(u, end) for u in n.users), default=-1) for n in self.nodes}
        live: list[list[fx.Node]] = []
        current: list[fx.Node] = []
        for i, node in enumerate(self.nodes):
            current = [n for n in (*current, node) if last[n] > i and n not in self.constants]
            live.append(current)
        return live

    def open_calls(self, i: int) -> list[tuple[int, str]]:
        """Return the calls that contain node ``i`` and continue after it."""
        return [c for c in self.nodes[i].meta['owners'] if self.calls[c][-1] > i]

    def depends(self, node: fx.Node, other: fx.Node) -> bool:
        """Return True if a value is computed from another."""
        seen, queue = {node}, [node]
        while queue:
            for n in queue.pop().all_input_nodes:
                if n is other:
                    return True
                if n not in seen and self.number[n] > self.number[other]:
                    seen.add(n)
                    queue.append(n)
        return False

    def conv(self, i: int) -> nn.Conv2d | None:
        """Return the convolution of a node, or None."""
        node = self.nodes[i]
        module = self.module.get_submodule(str(node.target)) if node.op == 'call_module' else None
        return module if isinstance(module, nn.Conv2d) else None


def has_stride(side: int, image_side: int, stride: int) -> bool:
    """Return True if the side of a map fits a stride; layers without padding make it smaller."""
    exact = image_side / stride
    return 0.75 * exact <= side <= math.ceil(exact) + 1


def channels_of(node: fx.Node) -> int:
    """Return the channels of a map of a square image."""
    return node.meta['shape'][3 if is_channels_last(node) else 1]


def is_channels_last(node: fx.Node) -> bool:
    """Return True if a map of a square image is (N, H, W, C)."""
    _, a, b, c = node.meta['shape']
    return a == b != c


def in_a_line(error: Exception) -> str:
    """Return an error as a short text for the end of a sentence."""
    return ' '.join(f'{type(error).__name__}: {error}'.split())[:160]
