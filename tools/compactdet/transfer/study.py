"""The transfer study: does the classification accuracy of a backbone predict detection AP, also at equal
cost?

Each setting (`compactdet.transfer.sources`) is studied separately; networks of different settings are never
put on one scale. Statements about several settings compare pairs of networks *within* each, or the orders
of the networks that two settings share.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations

import numpy as np

from compactdet.errors import UserError
from compactdet.transfer import correlation
from compactdet.transfer.correlation import Estimate, Fit, Pairs
from compactdet.transfer.sources import SCRATCH, LeftOut, Net, Setting

NEAR = 1.25  # factor within which two costs count as similar
IN_COMMON = 3  # networks that two settings must share before their orders are compared


@dataclass(frozen=True)
class WithoutFamily:
    """Spearman's rho without a family."""

    family: str
    rho: Estimate


@dataclass(frozen=True)
class CostStudy:
    """Multiply-adds as a confounder: more expensive networks tend to be better at both.

    Attributes:
        partial: Spearman's rho of accuracy and AP given the logarithm of the multiply-adds.
        ap: Spearman's rho of multiply-adds and AP.
        accuracy: Spearman's rho of multiply-adds and accuracy.
        plane: AP fitted on accuracy and the logarithm of the multiply-adds; None with too few networks.
    """

    partial: Estimate
    ap: Estimate
    accuracy: Estimate
    plane: Fit | None


@dataclass(frozen=True)
class SettingStudy:
    """Results for one setting.

    Attributes:
        setting: The setting.
        networks: Its networks that have an accuracy.
        spearman: Spearman's rho of accuracy and AP.
        kendall: Kendall's tau of accuracy and AP.
        chance: Probability that a random order gives a rho as far from 0.
        cost: Effect of cost; None if the cost of a network is unknown.
        without: One entry per family, if there are two or more.
        line: AP fitted on accuracy; None with too few networks.
    """

    setting: Setting
    nets: tuple[Net, ...]
    spearman: Estimate
    kendall: Estimate
    chance: float | None
    cost: CostStudy | None
    without: tuple[WithoutFamily, ...]
    line: Fit | None


@dataclass(frozen=True)
class Agreement:
    """How similarly two settings order their common networks.

    Attributes:
        a: Title of the first.
        b: Title of the second.
        differ: In what: 'data', 'detector', both, or 'protocol'.
        networks: In common.
        spearman: Of the two APs.
        kendall: Of the two APs.
        chance: How often a random order gives a rho as far from 0.
    """

    a: str
    b: str
    differ: tuple[str, ...]
    nets: tuple[str, ...]
    spearman: Estimate
    kendall: Estimate
    chance: float | None


@dataclass(frozen=True)
class Contrast:
    """Two settings that differ in only one respect, on their common networks.

    Attributes:
        kind: 'pretraining' (b starts from random weights) or 'freezing' (b has more frozen).
        a: Title of the first.
        b: Title of the second.
        networks: (name, AP in a, AP in b), by name.
        gain: Mean of AP in a minus AP in b, in points.
        spearman: Spearman's rho of the two APs.
        rho_a: Spearman's rho of accuracy and AP in a.
        rho_b: Spearman's rho of the same accuracy and AP in b; None if the accuracies are unknown.
    """

    kind: str
    a: str
    b: str
    nets: tuple[tuple[str, float, float], ...]
    gain: Estimate
    spearman: Estimate
    rho_a: Estimate | None
    rho_b: Estimate | None


@dataclass(frozen=True)
class Study:
    """The whole study.

    Attributes:
        settings: One entry per setting with at least two networks with an accuracy.
        pairs: Pairs of networks within those settings in which the higher accuracy has the higher AP.
        near_pairs: The same for pairs whose costs differ by at most the factor ``NEAR``.
        agreements: Agreements of settings with the same pretraining.
        contrasts: Random weights against pretrained, frozen against fine-tuned.
        left_out: Results that cannot be used.
    """

    settings: tuple[SettingStudy, ...]
    pairs: Pairs
    near_pairs: Pairs
    agreements: tuple[Agreement, ...]
    contrasts: tuple[Contrast, ...]
    left_out: tuple[LeftOut, ...]

    def to_json(self) -> dict:
        """Return plain values, unrounded."""
        return asdict(self)


def make_study(settings: Sequence[Setting], left_out: Sequence[LeftOut]) -> Study:
    """Study settings.

    Raises:
        UserError: There is only one network, or no two can be compared.
    """
    studies, alone = [], []
    for setting in settings:
        nets = tuple(net for net in setting.nets if net.accuracy is not None)
        if len(nets) > 1:
            studies.append(study_setting(setting, nets))
        elif nets:
            alone.append(LeftOut(setting.title, f'{nets[0].name} is the only network; an order needs two'))
    agreements, contrasts = _compare_settings(settings)
    names = sorted({net.name for setting in settings for net in setting.nets})
    if len(names) < 2 or not (studies or agreements or contrasts):
        raise UserError(_nothing(names, left_out))
    orders = [
        [(net.name, net.accuracy or 0.0, net.ap, net.cost) for net in study.nets] for study in studies
    ]
    return Study(
        settings=tuple(sorted(studies, key=lambda study: (-len(study.nets), study.setting.title))),
        pairs=correlation.count_pairs(orders, math.inf),
        near_pairs=correlation.count_pairs(orders, NEAR),
        agreements=tuple(agreements),
        contrasts=tuple(contrasts),
        left_out=(*left_out, *alone),
    )


def _nothing(nets: Sequence[str], left_out: Sequence[LeftOut]) -> str:
    why = f'; left out: {left_out[0].what}: {left_out[0].why}' if left_out else ''
    more = f' (and {len(left_out) - 1} more)' if len(left_out) > 1 else ''
    if len(nets) == 1:
        least = correlation.MIN_NETS
        return f'only one network ({nets[0]}): a study compares networks, {least} or more{why}{more}'
    if not nets:
        return f'no run that can be studied{why}{more}'
    return (
        f'no two of the {len(nets)} networks share a setting in which their accuracy is known: train '
        f'them with one config from weights that state their top-1 (one setting is one protocol){why}{more}'
    )


def study_setting(setting: Setting, nets: tuple[Net, ...]) -> SettingStudy:
    """Study the networks of one setting, which all have an accuracy."""
    accuracy = np.array([net.accuracy for net in nets], float)
    ap = np.array([net.ap for net in nets])
    estimate, spearman = correlation.estimate, correlation.spearman
    families = sorted({net.family for net in nets})
    without = []
    for family in families if len(families) > 1 else []:
        kept = np.array([net.family != family for net in nets])
        without.append(WithoutFamily(family, estimate(spearman, accuracy[kept], ap[kept])))
    costs = [net.cost for net in nets if net.cost]
    cost = None
    if len(costs) == len(nets):
        given = np.log10(costs)
        cost = CostStudy(
            partial=estimate(correlation.partial_spearman, accuracy, ap, given),
            ap=estimate(spearman, given, ap),
            accuracy=estimate(spearman, given, accuracy),
            plane=correlation.fit_residuals(ap, accuracy, given),
        )
    return SettingStudy(
        setting=setting,
        nets=nets,
        spearman=estimate(spearman, accuracy, ap),
        kendall=estimate(correlation.kendall, accuracy, ap),
        chance=correlation.chance(accuracy, ap),
        cost=cost,
        without=tuple(without),
        line=correlation.fit_residuals(ap, accuracy),
    )


def _compare_settings(settings: Sequence[Setting]) -> tuple[list[Agreement], list[Contrast]]:
    agreements, contrasts = [], []
    for first, second in combinations(settings, 2):
        kind = _contrast_kind(first, second)
        if kind:
            a, b = (second, first) if _is_control(first, second) else (first, second)
            contrast = _contrast(kind, a, b)
            if contrast.nets:
                contrasts.append(contrast)
        elif first.start == second.start and _depth_frozen(first) == _depth_frozen(second):
            agreement = _agreement(first, second)
            if len(agreement.nets) >= IN_COMMON:
                agreements.append(agreement)
    return agreements, contrasts


def _contrast_kind(a: Setting, b: Setting) -> str | None:
    """Return the only respect in which two settings differ, if it is one of the two contrasts."""
    if a.base is None or a.base != b.base:
        return None
    if a.frozen == b.frozen and SCRATCH in (a.start, b.start) and a.start != b.start:
        return 'pretraining'
    if a.start == b.start and a.frozen != b.frozen and None not in (a.frozen, b.frozen):
        return 'freezing'
    return None


def _is_control(a: Setting, b: Setting) -> bool:
    """Return True if ``a`` is the setting with less training: random weights, or more frozen."""
    return a.start == SCRATCH if a.start != b.start else _depth_frozen(a) > _depth_frozen(b)


def _depth_frozen(setting: Setting) -> int:
    return -1 if setting.frozen is None else setting.frozen


def _common(a: Setting, b: Setting) -> list[tuple[Net, Net]]:
    """Return the networks of both settings, by name; random weights have no recipe, so by arch then."""
    other = {net.name: net for net in b.nets} | {net.arch: net for net in b.nets if b.start == SCRATCH}
    return [
        (net, other.get(net.name) or other[net.arch])
        for net in a.nets
        if net.name in other or (b.start == SCRATCH and net.arch in other)
    ]


def _contrast(kind: str, a: Setting, b: Setting) -> Contrast:
    common = _common(a, b)
    first = np.array([net.ap for net, _ in common])
    second = np.array([net.ap for _, net in common])
    known = bool(common) and all(net.accuracy is not None for net, _ in common)
    accuracy = [net.accuracy or 0.0 for net, _ in common]
    return Contrast(
        kind=kind,
        a=a.title,
        b=b.title,
        nets=tuple((net.name, net.ap, other.ap) for net, other in common),
        gain=correlation.estimate(correlation.mean_difference, first, second),
        spearman=correlation.estimate(correlation.spearman, first, second),
        rho_a=correlation.estimate(correlation.spearman, accuracy, first) if known else None,
        rho_b=correlation.estimate(correlation.spearman, accuracy, second) if known else None,
    )


def _agreement(a: Setting, b: Setting) -> Agreement:
    common = _common(a, b)
    first, second = ([pair[i].ap for pair in common] for i in (0, 1))
    differ = [name for name in ('data', 'detector') if getattr(a, name) != getattr(b, name)]
    return Agreement(
        a=a.title,
        b=b.title,
        differ=tuple(differ) or ('protocol',),
        nets=tuple(net.name for net, _ in common),
        spearman=correlation.estimate(correlation.spearman, first, second),
        kendall=correlation.estimate(correlation.kendall, first, second),
        chance=correlation.chance(first, second),
    )
