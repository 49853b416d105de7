"""Help for parity tests: gives one library's network the weights of another's."""

from collections import defaultdict

import torch
from torch import Tensor, nn

COUNTER = 'num_batches_tracked'


def randomize_bn(network: nn.Module, seed: int = 0) -> None:
    """BN statistics and affine that are not the trivial ones, so that a swapped BN shows."""
    generator = torch.Generator().manual_seed(seed)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for tensor, low, high in (
                (layer.running_mean, -0.2, 0.2),
                (layer.running_var, 0.5, 1.5),
                (layer.weight.data, 0.5, 1.5),
                (layer.bias.data, -0.2, 0.2),
            ):
                tensor.copy_(torch.empty_like(tensor).uniform_(low, high, generator=generator))


def layers_in_order(network: nn.Module) -> list[dict[str, Tensor]]:
    """The tensors of each layer that has some, in the order of registration."""
    layers: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for key, tensor in network.state_dict().items():
        layer, _, name = key.rpartition('.')
        if name != COUNTER:
            layers[layer][name] = tensor
    return list(layers.values())


def copy_by_shape(source: nn.Module, target: nn.Module) -> None:
    """Copies layer by layer, in the order of registration; both must then agree in every name and shape.

    Where the two register layers in another order, rename with an explicit map in the test instead.

    Raises:
        ValueError: The networks differ in a layer.
    """
    ours, theirs = layers_in_order(target), layers_in_order(source)
    if len(ours) != len(theirs):
        raise ValueError(f'{len(theirs)} layers for {len(ours)}')
    for number, (mine, yours) in enumerate(zip(ours, theirs, strict=True)):
        if {k: v.numel() for k, v in mine.items()} != {k: v.numel() for k, v in yours.items()}:
            shapes = [{k: tuple(v.shape) for k, v in layer.items()} for layer in (yours, mine)]
            raise ValueError(f'layer {number}: {shapes[0]} for {shapes[1]}')
        for key, tensor in mine.items():
            tensor.copy_(yours[key].reshape(tensor.shape))
