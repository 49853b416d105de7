"""The transfer study: does a backbone's classification accuracy, at its cost, carry over to detection?

Made from settings (`compactdet.transfer.sources`), each studied by itself: nets of two settings are
never put on one scale. What is said over several settings compares pairs of nets *within* each, or the
order of the nets that two have in common.
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

NEAR = 1.25  # factor within which two costs are called similar
IN_COMMON = 3  # nets that two settings must share before their orders are compared


@dataclass(frozen=True)
class WithoutFamily:
    """Spearman's rho when a family is left out."""

    family: str
    rho: Estimate


@dataclass(frozen=True)
class CostStudy:
    """Multiply-adds as the confounder: what is more expensive tends to be better at both.

    Attributes:
        partial: Spearman's rho of accuracy and AP given the logarithm of the multiply-adds.
        ap: Spearman's rho of multiply-adds and AP.
        accuracy: Spearman's rho of multiply-adds and accuracy.
        plane: AP fitted on accuracy and the logarithm of the multiply-adds; None with too few nets.
    """

    partial: Estimate
    ap: Estimate
    accuracy: Estimate
    plane: Fit | None


@dataclass(frozen=True)
class SettingStudy:
    """What one setting shows.

    Attributes:
        setting: The setting.
        nets: Its nets that have an accuracy.
        spearman: Of accuracy and AP.
        kendall: Of accuracy and AP.
        chance: How often a random order gives a rho as far from 0.
        cost: What cost has to do with it; None where a net's is not known.
        without: One for each family, where there are two or more.
        line: AP fitted on accuracy; None where there are too few nets.
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
    """How alike two settings order the nets that they have in common.

    Attributes:
        a: Title of the first.
        b: Title of the second.
        differ: In what: 'data', 'detector', both, or 'protocol'.
        nets: In common.
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
    """Two settings that differ in one thing alone, on the nets that both have.

    Attributes:
        kind: 'pretraining' (b starts from random weights) or 'freezing' (b has more frozen).
        a: Title of the first.
        b: Title of the second.
        nets: (name, AP in a, AP in b), by name.
        gain: Mean of AP in a minus AP in b, in points.
        spearman: Of the two APs.
        rho_a: Spearman's rho of accuracy and AP in a.
        rho_b: Spearman's rho of the same accuracy and AP in b; None where the accuracies are not known.
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
        settings: One for each setting with two nets or more that have an accuracy.
        pairs: Pairs of nets within those settings: does the higher accuracy have the higher AP?
        near_pairs: The same of pairs whose costs differ by at most the factor ``NEAR``.
        agreements: Between settings that start from the same pretraining.
        contrasts: Random weights against pretrained, frozen against fine-tuned.
        left_out: What could not be used.
    """

    settings: tuple[SettingStudy, ...]
    pairs: Pairs
    near_pairs: Pairs
    agreements: tuple[Agreement, ...]
    contrasts: tuple[Contrast, ...]
    left_out: tuple[LeftOut, ...]

    def to_json(self) -> dict:
        """Plain values, every figure unrounded."""
        return asdict(self)


def make_study(settings: Sequence[Setting], left_out: Sequence[LeftOut]) -> Study:
    """Studies settings.

    Raises:
        UserError: There is one net only, or no two of them can be compared.
    """
    studies, alone = [], []
    for setting in settings:
        nets = tuple(net for net in setting.nets if net.accuracy is not None)
        if len(nets) > 1:
            studies.append(study_setting(setting, nets))
        elif nets:
            alone.append(LeftOut(setting.title, f'{nets[0].name} is alone; an order takes two nets'))
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
        return f'one net only ({nets[0]}): a study compares nets, {correlation.MIN_NETS} or more{why}{more}'
    if not nets:
        return f'no run that can be studied{why}{more}'
    return (
        f'no two of the {len(nets)} nets share a setting in which their accuracy is known: train them by '
        f'one config from weights that state their top-1 (one setting is one protocol){why}{more}'
    )


def study_setting(setting: Setting, nets: tuple[Net, ...]) -> SettingStudy:
    """Studies one setting's nets, which have an accuracy each."""
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
    """What alone two settings differ in, if it is one of the two things that are contrasted."""
    if a.base is None or a.base != b.base:
        return None
    if a.frozen == b.frozen and SCRATCH in (a.start, b.start) and a.start != b.start:
        return 'pretraining'
    if a.start == b.start and a.frozen != b.frozen and None not in (a.frozen, b.frozen):
        return 'freezing'
    return None


def _is_control(a: Setting, b: Setting) -> bool:
    """Whether ``a`` is the one with less trained: random weights, or more frozen."""
    return a.start == SCRATCH if a.start != b.start else _depth_frozen(a) > _depth_frozen(b)


def _depth_frozen(setting: Setting) -> int:
    return -1 if setting.frozen is None else setting.frozen


def _common(a: Setting, b: Setting) -> list[tuple[Net, Net]]:
    """Nets of both settings, by name; random weights have no recipe, so there the arch is the name."""
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
