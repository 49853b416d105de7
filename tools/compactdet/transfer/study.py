"""The transfer study: correlations of classification accuracy and detection AP, also at equal cost.

Each setting (`compactdet.transfer.sources`) is studied separately, because the values of two settings are
not comparable. Results over several settings use pairs of networks *within* each setting, or the orders of
the networks that two settings have in common.

The fields of the dataclasses are keys of study.json.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np

from compactdet.errors import UserError
from compactdet.transfer import correlation
from compactdet.transfer.correlation import Estimate, Fit, Measurement, Pairs
from compactdet.transfer.sources import SCRATCH, ExcludedResult, NetworkResult, Setting

SIMILAR_COST = 1.25  # two costs that differ by at most this factor count as similar
MIN_COMMON = 3  # number of common networks from which the orders of two settings are compared


@dataclass(frozen=True)
class WithoutFamily:
    """Spearman's rho of accuracy and AP without the networks of one family."""

    family: str
    rho: Estimate


@dataclass(frozen=True)
class CostStudy:
    """Multiply-adds as a confounder: more expensive networks tend to have higher accuracy and AP.

    Attributes:
        partial: Spearman's rho of accuracy and AP given the logarithm of the multiply-adds.
        ap: Spearman's rho of multiply-adds and AP.
        accuracy: Spearman's rho of multiply-adds and accuracy.
        plane: Fit of AP on accuracy and the logarithm of the multiply-adds; None with too few networks.
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
        nets: Its networks that have an accuracy.
        spearman: Spearman's rho of accuracy and AP.
        kendall: Kendall's tau of accuracy and AP.
        chance: Probability that a random order gives a rho at least as far from 0.
        cost: Effect of cost; None if the cost of a network is unknown.
        without: One entry per family, if there are two or more families.
        line: Fit of AP on accuracy; None with too few networks.
    """

    setting: Setting
    nets: tuple[NetworkResult, ...]
    spearman: Estimate
    kendall: Estimate
    chance: float | None
    cost: CostStudy | None
    without: tuple[WithoutFamily, ...]
    line: Fit | None


@dataclass(frozen=True)
class Agreement:
    """Rank correlation of the APs of two settings, over their common networks.

    Attributes:
        a: Title of the first setting.
        b: Title of the second.
        differ: Differences of the settings: 'data', 'detector', both, or 'protocol'.
        nets: Names of the common networks.
        spearman: Spearman's rho of the two APs.
        kendall: Kendall's tau of the two APs.
        chance: Probability that a random order gives a rho at least as far from 0.
    """

    a: str
    b: str
    differ: tuple[str, ...]
    nets: tuple[str, ...]
    spearman: Estimate
    kendall: Estimate
    chance: float | None


class ApPair(NamedTuple):
    """AP of a network in two settings, in percent."""

    name: str
    a: float
    b: float


@dataclass(frozen=True)
class Contrast:
    """Comparison of two settings that differ in only one respect, on their common networks.

    Attributes:
        kind: 'pretraining' (b starts from random weights) or 'freezing' (more stages are frozen in b).
        a: Title of the first setting.
        b: Title of the second.
        nets: AP of each common network in both settings, by name.
        gain: Mean of AP in a minus AP in b, in percentage points.
        spearman: Spearman's rho of the two APs.
        rho_a: Spearman's rho of the accuracy in a and AP in a; None if an accuracy is unknown.
        rho_b: Spearman's rho of the same accuracy and AP in b; None if an accuracy is unknown.
    """

    kind: str
    a: str
    b: str
    nets: tuple[ApPair, ...]
    gain: Estimate
    spearman: Estimate
    rho_a: Estimate | None
    rho_b: Estimate | None


@dataclass(frozen=True)
class Study:
    """The whole study.

    Attributes:
        settings: One entry per setting that has at least two networks with an accuracy.
        pairs: Number of pairs within these settings in which the more accurate network has the higher AP.
        near_pairs: ``pairs`` restricted to costs that differ by at most the factor ``SIMILAR_COST``.
        agreements: Agreements of settings with the same pretraining.
        contrasts: Contrasts of pretrained and random weights, and of fine-tuned and frozen stages.
        left_out: Results that cannot be used.
    """

    settings: tuple[SettingStudy, ...]
    pairs: Pairs
    near_pairs: Pairs
    agreements: tuple[Agreement, ...]
    contrasts: tuple[Contrast, ...]
    left_out: tuple[ExcludedResult, ...]

    def to_json(self) -> dict:
        """Return the content of study.json."""
        return asdict(self)


def make_study(settings: Sequence[Setting], excluded: Sequence[ExcludedResult]) -> Study:
    """Return the study of the settings.

    Raises:
        UserError: There is only one network, or no two networks can be compared.
    """
    studies, single = [], []
    for setting in settings:
        networks = tuple(network for network in setting.nets if network.accuracy is not None)
        if len(networks) > 1:
            studies.append(study_setting(setting, networks))
        elif networks:
            reason = f'{networks[0].name} is its only network; a correlation needs two'
            single.append(ExcludedResult(setting.title, reason))
    agreements, contrasts = _compare_settings(settings)
    names = sorted({network.name for setting in settings for network in setting.nets})
    if len(names) < 2 or not (studies or agreements or contrasts):
        raise UserError(_failure_reason(names, excluded))
    measurements = [
        [
            Measurement(network.name, network.accuracy or 0.0, network.ap, network.cost)
            for network in study.nets
        ]
        for study in studies
    ]
    return Study(
        settings=tuple(sorted(studies, key=lambda study: (-len(study.nets), study.setting.title))),
        pairs=correlation.count_pairs(measurements, math.inf),
        near_pairs=correlation.count_pairs(measurements, SIMILAR_COST),
        agreements=tuple(agreements),
        contrasts=tuple(contrasts),
        left_out=(*excluded, *single),
    )


def _failure_reason(names: Sequence[str], excluded: Sequence[ExcludedResult]) -> str:
    """Return the reason why networks with these names cannot be studied."""
    first = f'; excluded: {excluded[0].what}: {excluded[0].why}' if excluded else ''
    more = f' (and {len(excluded) - 1} more)' if len(excluded) > 1 else ''
    if len(names) == 1:
        least = correlation.MIN_NETWORKS
        return f'only one network ({names[0]}); a study needs {least} or more{first}{more}'
    if not names:
        return f'no run can be studied{first}{more}'
    return (
        f'no two of the {len(names)} networks have a known accuracy in the same setting; train them with '
        f'one config, from weights that state their top-1 accuracy{first}{more}'
    )


def study_setting(setting: Setting, networks: tuple[NetworkResult, ...]) -> SettingStudy:
    """Return the study of one setting; every network has an accuracy."""
    accuracy = np.array([network.accuracy for network in networks], float)
    ap = np.array([network.ap for network in networks])
    estimate, spearman = correlation.estimate, correlation.spearman
    families = sorted({network.family for network in networks})
    without = []
    for family in families if len(families) > 1 else []:
        kept = np.array([network.family != family for network in networks])
        without.append(WithoutFamily(family, estimate(spearman, accuracy[kept], ap[kept])))
    costs = [network.cost for network in networks if network.cost]
    cost_study = None
    if len(costs) == len(networks):
        log_cost = np.log10(costs)
        cost_study = CostStudy(
            partial=estimate(correlation.partial_spearman, accuracy, ap, log_cost),
            ap=estimate(spearman, log_cost, ap),
            accuracy=estimate(spearman, log_cost, accuracy),
            plane=correlation.fit_residuals(ap, accuracy, log_cost),
        )
    return SettingStudy(
        setting=setting,
        nets=networks,
        spearman=estimate(spearman, accuracy, ap),
        kendall=estimate(correlation.kendall, accuracy, ap),
        chance=correlation.permutation_p_value(accuracy, ap),
        cost=cost_study,
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
        elif first.start == second.start and _num_frozen(first) == _num_frozen(second):
            agreement = _agreement(first, second)
            if len(agreement.nets) >= MIN_COMMON:
                agreements.append(agreement)
    return agreements, contrasts


def _contrast_kind(a: Setting, b: Setting) -> str | None:
    """Return the kind of contrast if two settings differ in only one respect, else None."""
    if a.base is None or a.base != b.base:
        return None
    if a.frozen == b.frozen and SCRATCH in (a.start, b.start) and a.start != b.start:
        return 'pretraining'
    if a.start == b.start and a.frozen != b.frozen and None not in (a.frozen, b.frozen):
        return 'freezing'
    return None


def _is_control(a: Setting, b: Setting) -> bool:
    """Return True if ``a`` is the control of a contrast: random weights, or more frozen stages."""
    return a.start == SCRATCH if a.start != b.start else _num_frozen(a) > _num_frozen(b)


def _num_frozen(setting: Setting) -> int:
    return -1 if setting.frozen is None else setting.frozen


def _common_networks(a: Setting, b: Setting) -> list[tuple[NetworkResult, NetworkResult]]:
    """Return the networks that both settings have, matched by name.

    Networks with random weights have no pretraining recipe, so they are matched by arch.
    """
    found = {network.name: network for network in b.nets}
    if b.start == SCRATCH:
        found |= {network.arch: network for network in b.nets}
    return [
        (network, found.get(network.name) or found[network.arch])
        for network in a.nets
        if network.name in found or (b.start == SCRATCH and network.arch in found)
    ]


def _contrast(kind: str, a: Setting, b: Setting) -> Contrast:
    common = _common_networks(a, b)
    ap_a = np.array([network.ap for network, _ in common])
    ap_b = np.array([network.ap for _, network in common])
    all_known = bool(common) and all(network.accuracy is not None for network, _ in common)
    accuracy = [network.accuracy or 0.0 for network, _ in common]
    return Contrast(
        kind=kind,
        a=a.title,
        b=b.title,
        nets=tuple(ApPair(in_a.name, in_a.ap, in_b.ap) for in_a, in_b in common),
        gain=correlation.estimate(correlation.mean_difference, ap_a, ap_b),
        spearman=correlation.estimate(correlation.spearman, ap_a, ap_b),
        rho_a=correlation.estimate(correlation.spearman, accuracy, ap_a) if all_known else None,
        rho_b=correlation.estimate(correlation.spearman, accuracy, ap_b) if all_known else None,
    )


def _agreement(a: Setting, b: Setting) -> Agreement:
    common = _common_networks(a, b)
    ap_a, ap_b = ([pair[i].ap for pair in common] for i in (0, 1))
    differ = [name for name in ('data', 'detector') if getattr(a, name) != getattr(b, name)]
    return Agreement(
        a=a.title,
        b=b.title,
        differ=tuple(differ) or ('protocol',),
        nets=tuple(network.name for network, _ in common),
        spearman=correlation.estimate(correlation.spearman, ap_a, ap_b),
        kendall=correlation.estimate(correlation.kendall, ap_a, ap_b),
        chance=correlation.permutation_p_value(ap_a, ap_b),
    )
