"""Costs of a network: parameters, multiply-adds, memory traffic.

The multiply-adds of convolutions and fully connected layers are counted for one image; papers call them
"FLOPs". See ``compactdet.layer_costs`` for the rule.

>>> arch_costs('menet_228_12x1_g3')['macs']
144092352
"""

from __future__ import annotations

import functools
from typing import TypedDict

import torch

from backbones import build_classifier, get_arch, list_archs
from backbones.base import family_of
from backbones.libraries.reparameterize import reparameterize
from backbones.spec import COUNTING_CONVENTIONS, Arch, UnknownArchError
from compactdet.errors import UserError
from compactdet.layer_costs import count, num_params

DEFAULT_SIZE = 224
CONV_FC, _ = COUNTING_CONVENTIONS


class ArchCosts(TypedDict):
    """Costs of a network for one image: a row of the cost table, written as JSON and CSV.

    Learned sparsity and branches that can be merged are in their test-time form, except for ``training_*``.

    Attributes:
        arch: Registered name.
        family: Name of the class that builds the network.
        paper: Source of the network: arXiv id and table.
        size: Height and width of the image in pixels.
        params: Parameters of the classifier with the published number of classes.
        macs: Its multiply-adds.
        backbone_params: Parameters without the classifier's head.
        backbone_macs: Multiply-adds without the classifier's head.
        strides: Channels of the feature map by stride.
        stage_macs: Multiply-adds by part: 'stem', 'stage4', ..., 'head'.
        activations_read: Elements of the layers' inputs.
        activations_written: Elements of the layers' outputs.
        weights_read: Elements of the layers' weights.
        training_params: Parameters in training form.
        training_macs: Multiply-adds in training form.
        paper_mflops: Published cost in millions; None if the paper states none.
        paper_params_m: Published number of parameters in millions; None if the paper states none.
        paper_size: Input size of the paper.
        paper_convention: What the paper counts: a key of ``COUNTING_CONVENTIONS``.
        paper_size_macs: Cost at the input size and in the convention of the paper.
        difference_percent: Excess of ``paper_size_macs`` over ``paper_mflops`` in percent; None if the
            paper states no cost.
        cost_note: Reason of the difference.
    """

    arch: str
    family: str
    paper: str
    size: int
    params: int
    macs: int
    backbone_params: int
    backbone_macs: int
    strides: dict[str, int]
    stage_macs: dict[str, int]
    activations_read: int
    activations_written: int
    weights_read: int
    training_params: int
    training_macs: int
    paper_mflops: float | None
    paper_params_m: float | None
    paper_size: int
    paper_convention: str
    paper_size_macs: int
    difference_percent: float | None
    cost_note: str


def arch_costs(name: str | Arch, size: int | None = None) -> ArchCosts:
    """Return the costs of a network.

    Args:
        name: A name from ``list_archs()``, a ``LIBRARY:NAME``, or a row.
        size: Height and width of the image; None for 224, or the published size if that is smaller or the
            network does not take 224.

    Raises:
        UnknownArchError: There is no such network.
        UserError: The image is smaller than the last stride of the network, or not of a size that it takes.
    """
    arch = get_arch(name)
    if size is None:
        fits = arch.size_divisor and DEFAULT_SIZE % arch.size_divisor == 0
        size = min(DEFAULT_SIZE, arch.input_size) if fits else arch.input_size
    if size < arch.stages[-1].stride:
        raise UserError(
            f'size {size} is smaller than the last stride of {arch.name}, {arch.stages[-1].stride}'
        )
    try:
        arch.check_image(size, size)
    except ValueError as error:
        raise UserError(str(error)) from error
    sparse = has_learned_sparsity(arch.name)
    image, published_image = (torch.empty(1, 3, n, n, device='meta') for n in (size, arch.input_size))
    with torch.device('meta'):
        model = build_classifier(arch, conventions={'sparsity': 'converted'} if sparse else None)
        two_forms = reparameterize(model) or sparse
        training = build_classifier(arch) if two_forms else model
    counted = trained = at_published_size = count(model, image)
    if two_forms:
        trained = count(training, image)
    if arch.input_size != size:
        at_published_size = count(model, published_image)
    parts = counted.costs
    macs = counted.macs
    paper_macs = at_published_size.macs
    if arch.paper_convention != CONV_FC:
        paper_macs += at_published_size.elementwise
    difference = 100 * (paper_macs / 1e6 / arch.paper_mflops - 1) if arch.paper_mflops else None
    return {
        'arch': arch.name,
        'family': arch.family,
        'paper': arch.paper,
        'size': size,
        'params': num_params(model.parameters()),
        'macs': macs,
        'backbone_params': num_params(model.parameters()) - num_params(model.head.parameters()),
        'backbone_macs': macs - parts['head'].macs,
        'strides': {str(stride): channels for stride, channels in arch.strides.items()},
        'stage_macs': {part: costs.macs for part, costs in parts.items()},
        'activations_read': sum(costs.activations_read for costs in parts.values()),
        'activations_written': sum(costs.activations_written for costs in parts.values()),
        'weights_read': sum(costs.weights_read for costs in parts.values()),
        'training_params': num_params(training.parameters()),
        'training_macs': trained.macs,
        'paper_mflops': arch.paper_mflops,
        'paper_params_m': arch.paper_params_m,
        'paper_size': arch.input_size,
        'paper_convention': arch.paper_convention,
        'paper_size_macs': paper_macs,
        'difference_percent': None if difference is None else round(difference, 2),
        'cost_note': arch.cost_note,
    }


def select_archs(patterns: list[str]) -> list[str]:
    """Return the names of the networks that match any of the patterns, each once.

    Raises:
        UserError: A pattern matches nothing. The message lists similar names.
    """
    names: dict[str, None] = {}
    for pattern in patterns or ['*']:
        matches = list_archs(pattern)
        if not matches:
            try:
                matches = [get_arch(pattern).name]  # LIBRARY:NAME, which list_archs() does not have
            except UnknownArchError as error:
                raise UserError(str(error)) from None
        names.update(dict.fromkeys(matches))
    return list(names)


def has_learned_sparsity(name: str) -> bool:
    """Return True if a network has learned sparsity, in a training form and a test-time form."""
    return 'sparsity' in family_of(get_arch(name)).takes_conventions


@functools.cache
def has_two_forms(name: str) -> bool:
    """Return True if a network's test-time form is another: learned sparsity, or branches to merge."""
    if has_learned_sparsity(name):
        return True
    with torch.device('meta'):
        return reparameterize(build_classifier(name))
