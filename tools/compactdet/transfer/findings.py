"""Sentences of the transfer study. The values of a result select the sentence that states it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from compactdet.transfer.correlation import CONFIDENCE, MIN_NETWORKS, Estimate, Fit, Pairs
from compactdet.transfer.sources import NetworkResult
from compactdet.transfer.study import SIMILAR_COST, Agreement, Contrast, SettingStudy, Study

SIGNIFICANCE_LEVEL = 1 - CONFIDENCE
MIN_REMAINING = 3  # networks for a statement without a family, or about two settings
DIFFERENCES = {
    'data': 'different data sets',
    'detector': 'different detectors',
    'protocol': 'different protocols',
}
CONTRAST_SIDES = {'pretraining': ('pretrained', 'from scratch'), 'freezing': ('fine-tuned', 'frozen')}


class Residual(NamedTuple):
    """Residual of a network in a fit.

    Attributes:
        abs_t: Absolute value of the externally studentized residual.
        points: Residual in points of AP.
        p: Corrected p value.
        name: The network.
    """

    abs_t: float
    points: float
    p: float
    name: str


def setting_sentences(study: SettingStudy) -> list[str]:
    """Return the findings for one setting: correlation, effect of cost, families, outliers."""
    sentences = [_correlation_sentence(study)]
    if len(study.nets) >= MIN_NETWORKS:
        sentences += [_cost_sentence(study), *_family_sentences(study), *_outlier_sentences(study)]
    return sentences


def _correlation_sentence(study: SettingStudy) -> str:
    rho, n = study.spearman, len(study.nets)
    values = f'ρ = {format_estimate(rho)}, τ = {format_estimate(study.kendall)}, n = {n}'
    if rho.value is None or study.chance is None:
        return f'The correlation of accuracy and AP is not defined: {rho.note} (n = {n}).'
    chance = _chance_clause(study.chance)
    if n < MIN_NETWORKS:
        return f'{n} networks are too few for a conclusion: ρ = {rho.value:.2f}, and {chance}.'
    if rho.low is None:
        order = 'the same order' if rho.value > 0 else 'opposite orders'
        start = 'Correlation of accuracy and AP'
        if abs(rho.value) == 1:
            start = f'Accuracy and AP rank the networks in exactly {order}'
        return f'{start}: {values}; {rho.note}, but {chance}.'
    higher = 'higher' if rho.value > 0 else 'lower'
    significance, reason = _significance(rho, study.chance)
    start = {
        'significant': f'More accurate networks tend to have {higher} AP',
        'uncertain': 'The correlation of accuracy and AP is uncertain',
        'not significant': 'Accuracy and AP are not significantly correlated',
    }[significance]
    return f'{start}: {values}; {reason}.'


def _significance(rho: Estimate, chance: float) -> tuple[str, str]:
    """Return 'significant', 'uncertain' or 'not significant', and the clause that states why.

    A correlation is uncertain if the interval and the permutation test disagree.
    """
    clause = _chance_clause(chance)
    is_unlikely = chance < SIGNIFICANCE_LEVEL
    if rho.excludes_zero and is_unlikely:
        return 'significant', clause
    if rho.excludes_zero:
        return 'uncertain', f'the interval excludes 0, but {clause}'
    if is_unlikely:
        return 'uncertain', f'the interval contains 0, but {clause}'
    return 'not significant', f'the interval contains 0, and {clause}'


def _chance_clause(chance: float) -> str:
    percent = format_percent(chance)
    return f'the probability that a random order gives a ρ at least as far from 0 is {percent}'


def _cost_sentence(study: SettingStudy) -> str:
    cost = study.cost
    if cost is None:
        unknown = ', '.join(network.name for network in study.nets if not network.cost)
        return f'Cost cannot be controlled for: the multiply-adds of {unknown} are not known.'
    partial = cost.partial
    if partial.value is None or cost.ap.value is None:
        return f'Cost cannot be controlled for: {partial.note or cost.ap.note}.'
    given = f'ρ of accuracy and AP given the multiply-adds is {format_estimate(partial)}'
    alone = f'ρ of the multiply-adds and AP is {format_estimate(cost.ap)}'
    if partial.low is None:
        return f'At equal cost, no conclusion is possible: {given} ({partial.note}); {alone}.'
    if not partial.excludes_zero:
        return (
            f'At equal cost, accuracy and AP are not significantly correlated: {given}, and the interval '
            f'contains 0; {alone}.'
        )
    higher = 'higher' if partial.value > 0 else 'lower'
    return f'At equal cost too, more accurate networks tend to have {higher} AP: {given}; {alone}.'


def _family_sentences(study: SettingStudy) -> list[str]:
    known = [
        (w.rho.value, w) for w in study.without if w.rho.value is not None and w.rho.n >= MIN_REMAINING
    ]
    if not known:
        return []
    ends = [f(known, key=lambda item: item[0]) for f in (min, max)]
    low, high = (f'{value:.2f}' for value, _ in ends)
    text = f'ρ is {low} in every case'
    if low != high:
        text = f'ρ ranges from {low} (without {ends[0][1].family}) to {high} (without {ends[1][1].family})'
    uncertain = [w.family for _, w in known if w.rho.low is not None and not w.rho.excludes_zero]
    if uncertain and study.spearman.excludes_zero:
        text += f'; without {join_names(uncertain)} the interval contains 0'
    return [f'If one family is left out: {text}.']


def _outlier_sentences(study: SettingStudy) -> list[str]:
    plane = study.cost.plane if study.cost else None
    sentences = []
    for predictors, fit in (('accuracy', study.line), ('accuracy and cost', plane)):
        ranked = _ranked_residuals(fit, study.nets) if fit else []
        if not ranked:
            continue
        outliers = [_format_residual(residual) for residual in ranked if residual.p < SIGNIFICANCE_LEVEL]
        if outliers:
            sentences.append(f'Outliers in the fit of AP on {predictors}: {join_names(outliers)}.')
            continue
        sides = [[item for item in ranked if (item.points > 0) == above] for above in (True, False)]
        ends = join_names([_format_residual(side[0]) for side in sides if side])
        sentences.append(
            f'No network is an outlier in the fit of AP on {predictors}; the largest residuals are {ends}.'
        )
    return sentences


def _ranked_residuals(fit: Fit, networks: Sequence[NetworkResult]) -> list[Residual]:
    """Return the residuals that have a t value, largest absolute t first."""
    rows = zip(fit.studentised, fit.residuals, fit.p, networks, strict=True)
    residuals = [
        Residual(abs(t), points, p, network.name)
        for t, points, p, network in rows
        if t is not None and p is not None
    ]
    return sorted(residuals, key=lambda item: (-item.abs_t, item.name))


def _format_residual(residual: Residual) -> str:
    side = 'above' if residual.points > 0 else 'below'
    p = 'p < 0.001' if residual.p < 0.001 else f'p = {residual.p:.2g}'
    return f'{residual.name}, {abs(residual.points):.1f} points {side} (|t| = {residual.abs_t:.1f}, {p})'


def pair_sentences(study: Study) -> list[str]:
    """Return the findings for the pairs of networks within all settings."""
    if not study.pairs.total:
        return []
    count = len(study.settings)
    where = 'one setting' if count == 1 else f'the same setting ({count} settings)'
    finding = 'the more accurate network has the higher AP in'
    sentences = [f'Pairs of networks in {where}: {finding} {_format_pairs(study.pairs)}.']
    if study.near_pairs.total:
        start = f'Pairs whose costs differ by a factor of at most {SIMILAR_COST:g}'
        sentences.append(f'{start}: {finding} {_format_pairs(study.near_pairs)}.')
    return sentences


def _format_pairs(pairs: Pairs) -> str:
    share = pairs.share
    remark = share.note
    if share.low is not None and share.high is not None:
        position = 'above' if share.low > 0.5 else 'below' if share.high < 0.5 else 'contains'
        interval = f'{format_percent(share.low)} to {format_percent(share.high)}'
        remark = f'interval {interval}, {position} 50 %'
    rate = format_percent(pairs.agree / pairs.total)
    return f'{pairs.agree} of {pairs.total} pairs, {rate} ({remark}; {share.n} networks)'


def agreement_sentence(agreement: Agreement) -> str:
    """Return the finding for an agreement of two settings."""
    rho, n = agreement.spearman, len(agreement.nets)
    differences = ' and '.join(DIFFERENCES[name] for name in agreement.differ)
    start = f'{agreement.a} and {agreement.b} ({differences}; {n} networks in common)'
    if rho.value is None or agreement.chance is None:
        return f'{start}: {rho.note}.'
    values = f'ρ = {format_estimate(rho)}, τ = {format_estimate(agreement.kendall)}'
    chance = _chance_clause(agreement.chance)
    if n < MIN_NETWORKS:
        return f'{start}: ρ = {rho.value:.2f}; too few networks for a conclusion; {chance}.'
    if rho.low is None:
        return f'{start}: {values} ({rho.note}; {chance}).'
    order = 'the same order' if rho.value > 0 else 'opposite orders'
    significance, reason = _significance(rho, agreement.chance)
    finding = {
        'significant': f'the APs tend to rank the networks in {order}',
        'uncertain': 'the correlation of the APs is uncertain',
        'not significant': 'the APs are not significantly correlated',
    }[significance]
    return f'{start}: {finding}: {values}; {reason}.'


def contrast_sentences(contrast: Contrast) -> list[str]:
    """Return the findings for a contrast: mean gain, agreement of APs, correlations with accuracy."""
    a, b = CONTRAST_SIDES[contrast.kind]
    gain, n = contrast.gain, len(contrast.nets)
    better = f'{sum(pair.a > pair.b for pair in contrast.nets)} of {n} networks have a higher AP {a}'
    difference = f'Mean difference of AP, {a} minus {b}: {gain.value or 0:+.1f}'
    if gain.low is None or gain.high is None:
        sentences = [f'{difference} points; {better}; {gain.note}.']
    else:
        sign = 'positive' if gain.low > 0 else 'negative' if gain.high < 0 else 'not significant'
        sentences = [f'{difference} [{gain.low:+.1f}, {gain.high:+.1f}] points ({sign}); {better}.']
    if n >= MIN_REMAINING and contrast.spearman.value is not None:
        rho = format_estimate(contrast.spearman)
        sentences.append(f'Correlation of AP {a} and AP {b}: ρ = {rho}, n = {n}.')
    if n >= MIN_REMAINING and contrast.rho_a and contrast.rho_b and None not in (
        contrast.rho_a.value, contrast.rho_b.value,
    ):  # fmt: skip
        sentences.append(
            f'Correlation of the same accuracies with AP {a}: ρ = {format_estimate(contrast.rho_a)}; '
            f'with AP {b}: ρ = {format_estimate(contrast.rho_b)}.'
        )
    return sentences


def unanswered_questions(study: Study) -> list[str]:
    """Return the questions of the study for which there are no results."""
    kinds = {contrast.kind for contrast in study.contrasts}
    questions = []
    if 'pretraining' not in kinds:
        questions.append('Pretrained and random weights: no two settings differ only in this.')
    if 'freezing' not in kinds:
        questions.append('Fine-tuned and frozen stages: no two settings differ only in this.')
    if not any('data' in agreement.differ for agreement in study.agreements):
        questions.append(
            'Different data sets: no two settings with the same initial weights have three common networks.'
        )
    return questions


def format_estimate(estimate: Estimate) -> str:
    """Return an estimate as ``0.93 [0.71, 0.98]``."""
    if estimate.value is None:
        return 'not defined'
    if estimate.low is None or estimate.high is None:
        return f'{estimate.value:.2f}'
    return f'{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]'


def format_percent(value: float) -> str:
    """Return a share in percent, with two significant digits if it is small."""
    percent = 100 * value
    return f'{percent:.0f} %' if percent >= 9.5 or percent == 0 else f'{percent:.2g} %'


def join_names(names: Sequence[str]) -> str:
    """Return names joined by commas and "and", or by semicolons if a name contains a comma."""
    separator = '; ' if any(',' in name for name in names) else ', '
    return names[0] if len(names) == 1 else f'{separator.join(names[:-1])} and {names[-1]}'
