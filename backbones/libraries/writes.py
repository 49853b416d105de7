"""Operations of a recorded network that write into an existing tensor: ``x.mul_(y)``, ``x += y``,
``x[i] = y``, ``out=x``, ``ReLU(inplace=True)``.

In a graph of layers, a layer has only inputs and a result. So a later reader of a tensor that was written
into must take the result of the write as input (`make_explicit`).
"""

from __future__ import annotations

import operator
from typing import Any

from torch import Tensor, fx, nn
from torch.utils import _pytree  # noqa: PLC2701, torch has no public name for it

# Of `x += y` and its like: the operator without assignment has the same result.
ASSIGNMENTS: dict[Any, Any] = {
    getattr(operator, f'i{name}'): getattr(operator, f'{name}_' if name in ('and', 'or') else name)
    for name in (
        'add', 'sub', 'mul', 'truediv', 'floordiv', 'mod', 'pow', 'and', 'or', 'xor', 'matmul',
        'lshift', 'rshift',
    )
}  # fmt: skip


def set_item(x: Any, index: Any, value: Any) -> Any:
    """Assign ``x[index] = value`` and return ``x``."""
    x[index] = value
    return x


class WritableProxy(fx.Proxy):
    """A proxy that records assignments such as ``x += y`` and ``x[i] = y`` as writes into ``x``."""

    def __setitem__(self, index: Any, value: Any) -> None:
        self.tracer.create_proxy('call_function', set_item, (self, index, value), {})


def _assignment(function: Any) -> Any:
    def assign(self: fx.Proxy, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy('call_function', function, (self, other), {})

    return assign


for _function in ASSIGNMENTS:
    setattr(WritableProxy, f'__{_function.__name__}__', _assignment(_function))


class Shapes(fx.Interpreter):
    """Run a graph, store the shape of every tensor in ``meta['shape']``, and find the writes.

    Attributes:
        results: Result of each node.
        writes: For each node that writes, the earlier nodes whose results it changes.
    """

    def __init__(self, module: fx.GraphModule):
        super().__init__(module, garbage_collect_values=False)
        self.results: dict[fx.Node, Any] = {}
        self.writes: dict[fx.Node, list[fx.Node]] = {}
        self._versions: dict[fx.Node, list[int]] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run a node."""
        result = super().run_node(n)
        # Views of a tensor share its version. Dropout writes in training only.
        if any(_versions(self.results[arg]) != self._versions[arg] for arg in n.all_input_nodes):
            changed = [m for m, value in self.results.items() if _versions(value) != self._versions[m]]
            self._versions.update({m: _versions(self.results[m]) for m in changed})
            self.writes[n] = changed
        elif _is_inplace_layer(n, self.module):
            self.writes[n] = [m for m, value in self.results.items() if value is result]
        self.results[n], self._versions[n] = result, _versions(result)
        n.meta['shape'] = tuple(result.shape) if isinstance(result, Tensor) else None
        return result


def make_explicit(run: Shapes) -> list[fx.Node]:
    """Let later readers of a tensor that was written into read the result of the write.

    Args:
        run: A run of the graph, which is changed.

    Returns:
        The writes for which this is not possible: they change a parameter or buffer, or a tensor that is
        read later under another shape.
    """
    hidden = []
    number = {node: i for i, node in enumerate(run.results)}
    for write, changed in run.writes.items():
        result = run.results[write]
        for node in changed:
            value = run.results[node]
            readers = [user for user in node.users if number[user] > number[write]]
            if node.op == 'get_attr':
                hidden.append(write)
            elif value is result:
                for user in readers:
                    user.replace_input_with(node, write)
            elif any(_tensors(run.results[user]) for user in readers):
                hidden.append(write)
    for node in number:
        if node.target in ASSIGNMENTS:
            node.target = ASSIGNMENTS[node.target]
            run.writes.pop(node, None)
    return hidden


def is_named_write(node: fx.Node) -> bool:
    """Return True if the name of an operation says that it writes: ``x.mul_(y)``; also if it is not seen to
    (``x.data.mul_(y)``).
    """
    name = str(getattr(node.target, '__name__', node.target))
    return node.op.startswith('call') and name.endswith('_') and not name.endswith('__')


def describe_write(node: fx.Node) -> str:
    """Return the operation of a node and its module: ``mul_ in layer1.0``."""
    owners = node.meta.get('owners', ())
    name = str(getattr(node.target, '__name__', node.target))
    return f'{name} in {owners[-1][1]}' if owners else name


def _versions(value: Any) -> list[int]:
    return [tensor._version for tensor in _tensors(value)]


def _is_inplace_layer(node: fx.Node, network: nn.Module) -> bool:
    if node.op != 'call_module':
        return bool(node.kwargs.get('inplace'))
    return any(
        getattr(module, 'inplace', False) for module in network.get_submodule(str(node.target)).modules()
    )


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in _pytree.tree_leaves(value) if isinstance(leaf, Tensor)]
