"""The networks of a latency study: their costs, accuracy, kind of convolution, and measured latency."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from backbones import build_classifier, get_arch, list_archs
from backbones.libraries.adapter import AdaptedArch
from backbones.libraries.reparameterize import reparameterize
from compactdet.costs import arch_costs, has_learned_sparsity
from compactdet.deploy.latency import Interval
from compactdet.errors import UserError
from compactdet.leaderboard import published

MAX_MACS = 600e6
SIZE = 224
GROUPED, DEPTHWISE, DENSE = 'grouped 1x1', 'depthwise', 'dense'
# Top-1 accuracy in percent that the papers of later networks print (MobileViT, EdgeNeXt: at 256x256).
# A network whose figure was not found in print has none, and so no place on the frontier.
LATER_TOP1 = {
    'mobilenetv4_conv_small': 73.8,
    'fasternet_t0': 71.9,
    'starnet_s2': 74.8,
    'ghostnetv2_1x': 75.3,
    'edgenext_xxs': 71.2,
    'lcnet_0.5x': 63.1,
    'lcnet_1x': 71.3,
    'mobilevit_xxs': 69.0,
}


@dataclass(frozen=True)
class StudyNetwork:
    """A network with its costs for one image and its latencies.

    Attributes:
        name: Name of the network.
        family: Class of the network; its own name for a network of a library.
        kind: 'grouped 1x1' if it has pointwise convolutions with groups, else 'depthwise' if it has
            depthwise convolutions, else 'dense'.
        top1: Published ImageNet top-1 accuracy in percent; None if unknown.
        macs: Multiply-adds.
        params: Parameters.
        memory: Elements that convolutions and fully connected layers read and write.
        latency_ms: Median latency by backend in milliseconds, with its 95 % interval.
        ratio: Ratio to the reference by backend, with its 95 % interval; 1 for the reference.
    """

    name: str
    family: str
    kind: str
    top1: float | None
    macs: int
    params: int
    memory: int
    latency_ms: Mapping[str, Interval]
    ratio: Mapping[str, Interval]


def select() -> list[str]:
    """Return the networks for 224x224 images with at most `MAX_MACS` multiply-adds."""
    rows = [get_arch(name) for name in list_archs()]
    return [row.name for row in rows if row.input_size == SIZE and arch_costs(row)['macs'] <= MAX_MACS]


def from_latencies(content: Mapping[str, Any], source: str) -> list[StudyNetwork]:
    """Return the networks of a ``latency.json``, in its order.

    Args:
        content: Of a file from `compactdet.deploy.latency_file.read`.
        source: Name of the file, for errors.

    Raises:
        UserError: The file has other targets than networks, several numbers of threads, batches or sizes,
            or fewer than five networks.
    """
    settings = {(r['threads'], r['batch'], *r['size']) for r in content['results']}
    if len(settings) > 1:
        raise UserError(f'{source} has several numbers of threads, batches or sizes; a study needs one')
    names = dict.fromkeys(result['name'] for result in content['results'])
    unknown = [name for name in names if name not in list_archs()]
    if unknown:
        raise UserError(f'{source}: {unknown[0]} is not the name of a network; a study needs networks only')
    if len(names) < 5:
        raise UserError(f'{source} has {len(names)} networks; a study needs at least 5')
    return [_network(name, content) for name in names]


def _network(name: str, content: Mapping[str, Any]) -> StudyNetwork:
    own = [result for result in content['results'] if result['name'] == name]
    costs = arch_costs(name, own[0]['size'][0])
    return StudyNetwork(
        name,
        # Networks of libraries share the class of the adapter; each is a family of its own here.
        name if isinstance(get_arch(name), AdaptedArch) else costs['family'],
        convolution_kind(name),
        top1(name),
        costs['macs'],
        costs['params'],
        costs['activations_read'] + costs['activations_written'] + costs['weights_read'],
        {result['backend']: _interval(result['median_ms']) for result in own},
        {result['backend']: _interval(result['ratio']) for result in own},
    )


def _interval(value: Mapping[str, float] | None) -> Interval:
    return (
        Interval(1.0, 1.0, 1.0)
        if value is None
        else Interval(value['value'], value['low95'], value['high95'])
    )


@functools.cache
def convolution_kind(name: str) -> str:
    """Return the kind of convolution that marks a network in its test-time form; see `StudyNetwork`."""
    conventions = {'sparsity': 'converted'} if has_learned_sparsity(name) else None
    with torch.device('meta'):
        model = build_classifier(name, conventions=conventions)
        reparameterize(model)
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d) and layer.groups > 1]
    if any(layer.kernel_size == (1, 1) for layer in layers):
        return GROUPED
    return DEPTHWISE if any(layer.groups == layer.in_channels for layer in layers) else DENSE


def top1(name: str) -> float | None:
    """Return the published ImageNet top-1 accuracy in percent; the network's own paper goes first."""
    rows = [
        row
        for row in published.load().results('classification')
        if row.arch == name and row.setting == 'imagenet'
    ]
    rows.sort(key=lambda row: row.quoted)
    return rows[0].top1_accuracy if rows else LATER_TOP1.get(name)
