"""Sentences of the transfer study, selected by the values that they state."""

from __future__ import annotations

from collections.abc import Sequence

from compactdet.transfer.correlation import CONFIDENCE, MIN_NETS, Estimate, Fit, Pairs
from compactdet.transfer.sources import Net
from compactdet.transfer.study import NEAR, Agreement, Contrast, SettingStudy, Study

LEVEL = 1 - CONFIDENCE  # significance level of the tests
LEAST = 3  # networks that must remain when a family is left out
COMPARED = {'data': 'the data set', 'detector': 'the detector', 'protocol': 'the protocol'}


def setting_sentences(study: SettingStudy) -> list[str]:
    """Return the findings for one setting: correlation, effect of cost, families, outliers."""
    found = [_correlation(study)]
    if len(study.nets) >= MIN_NETS:
        found += [_given_cost(study), *_families(study), *_standing_out(study)]
    return found


def _correlation(study: SettingStudy) -> str:
    rho, tau, n = study.spearman, study.kendall, len(study.nets)
    figures = f'ρ = {figure(rho)}, τ = {figure(tau)}, n = {n}'
    if rho.value is None or study.chance is None:
        return f'Accuracy and AP cannot be correlated: {rho.note} (n = {n}).'
    odds = f'a random order would give a ρ as far from 0 in {share(study.chance)} of cases'
    if n < MIN_NETS:
        return f'{n} networks are too few for a statement: ρ = {rho.value:.2f}, and {odds}.'
    if rho.low is None:
        order = 'exactly as' if rho.value > 0 else 'exactly opposite to'
        start = f'Accuracy orders the networks {order} AP' if abs(rho.value) == 1 else 'Accuracy against AP'
        return f'{start}: {figures}; {rho.note}, but {odds}.'
    if not rho.excludes_zero and study.chance >= LEVEL:
        return (
            f'A relation of accuracy and AP is not shown: {figures}; the interval contains 0, and {odds}.'
        )
    if not rho.excludes_zero or study.chance >= LEVEL:
        side = 'leaves out' if rho.excludes_zero else 'contains'
        return f'A relation of accuracy and AP is uncertain: {figures}; the interval {side} 0, but {odds}.'
    higher = 'higher' if rho.value > 0 else 'lower'
    return f'More accurate networks tend to have {higher} AP: {figures}; {odds}.'


def _given_cost(study: SettingStudy) -> str:
    cost = study.cost
    if cost is None:
        unknown = ', '.join(net.name for net in study.nets if not net.cost)
        return f'Cost cannot be controlled for: the multiply-adds of {unknown} are not known.'
    partial = cost.partial
    if partial.value is None or cost.ap.value is None:
        return f'Cost cannot be controlled for: {partial.note or cost.ap.note}.'
    alone = f'multiply-adds alone order AP with ρ = {figure(cost.ap)}'
    given = f'given the multiply-adds, ρ of accuracy and AP is {figure(partial)}'
    if partial.low is None:
        return f'At equal cost the data allow no statement: {given} ({partial.note}); {alone}.'
    if not partial.excludes_zero:
        return f'At equal cost a relation is not shown: {given}, an interval that contains 0; {alone}.'
    higher = 'higher' if partial.value > 0 else 'lower'
    return f'Also at equal cost, more accurate networks tend to have {higher} AP: {given}; {alone}.'


def _families(study: SettingStudy) -> list[str]:
    known = [(w.rho.value, w) for w in study.without if w.rho.value is not None and w.rho.n >= LEAST]
    if not known:
        return []
    ends = [f(known, key=lambda item: item[0]) for f in (min, max)]
    low, high = (f'{value:.2f}' for value, _ in ends)
    words = f'ρ stays {low} whichever is left out'
    if low != high:
        words = f'ρ goes from {low} (without {ends[0][1].family}) to {high} (without {ends[1][1].family})'
    lost = [w.family for _, w in known if w.rho.low is not None and not w.rho.excludes_zero]
    if lost and study.spearman.excludes_zero:
        words += f'; without {listing(lost)} the interval contains 0'
    return [f'Leaving out one family at a time: {words}.']


def _standing_out(study: SettingStudy) -> list[str]:
    plane = study.cost.plane if study.cost else None
    found = []
    for predictors, fit in (('accuracy predicts', study.line), ('accuracy and cost predict', plane)):
        ranked = _ranked(fit, study.nets) if fit else []
        if not ranked:
            continue
        names = [_deviation(*item) for item in ranked if item[2] < LEVEL]
        if names:
            found.append(f'Differs from what {predictors}: {listing(names)}.')
            continue
        sides = [[item for item in ranked if (item[1] > 0) == above] for above in (True, False)]
        ends = listing([_deviation(*side[0]) for side in sides if side])
        found.append(
            f'No network differs clearly from what {predictors}; the largest differences are {ends}.'
        )
    return found


def _ranked(fit: Fit, nets: Sequence[Net]) -> list[tuple[float, float, float, str]]:
    """Return (|t|, residual, p, name), largest difference from the fit first."""
    rows = zip(fit.studentised, fit.residuals, fit.p, nets, strict=True)
    kept = [(abs(t), r, p, net.name) for t, r, p, net in rows if t is not None and p is not None]
    return sorted(kept, key=lambda item: (-item[0], item[3]))


def _deviation(t: float, residual: float, p: float, name: str) -> str:
    side = 'better' if residual > 0 else 'worse'
    odds = 'p < 0.001' if p < 0.001 else f'p = {p:.2g}'
    return f'{name}, {abs(residual):.1f} points {side} (|t| = {t:.1f}, {odds})'


def pair_sentences(study: Study) -> list[str]:
    """Return the findings for pairs of networks within all settings."""
    if not study.pairs.total:
        return []
    count = len(study.settings)
    where = 'one setting' if count == 1 else f'{count} settings, each by itself'
    found = [f'In {where}, the more accurate of two networks has the higher AP in {_pairs(study.pairs)}.']
    if study.near_pairs.total:
        start = f'Of two networks whose costs differ by a factor of at most {NEAR:g}'
        found.append(f'{start}, the more accurate has the higher AP in {_pairs(study.near_pairs)}.')
    return found


def _pairs(pairs: Pairs) -> str:
    estimate = pairs.share
    tail = estimate.note
    if estimate.low is not None and estimate.high is not None:
        side = 'above' if estimate.low > 0.5 else 'below' if estimate.high < 0.5 else 'on both sides of'
        tail = f'interval {share(estimate.low)} to {share(estimate.high)}, {side} one half'
    rate = share(pairs.agree / pairs.total)
    return f'{pairs.agree} of {pairs.total} pairs, {rate} ({tail}; {estimate.n} networks)'


def agreement_sentence(agreement: Agreement) -> str:
    """State how similarly two settings order their common networks."""
    rho, n = agreement.spearman, len(agreement.nets)
    what = ' and '.join(COMPARED[name] for name in agreement.differ)
    start = f'{agreement.a} against {agreement.b} (they differ in {what}), {n} networks in common'
    if rho.value is None or agreement.chance is None:
        return f'{start}: {rho.note}.'
    figures = f'ρ = {figure(rho)}, τ = {figure(agreement.kendall)}'
    odds = f'a random order would give a ρ as far from 0 in {share(agreement.chance)} of cases'
    if n < MIN_NETS:
        return f'{start}: ρ = {rho.value:.2f}; too few for a statement, {odds}.'
    if rho.low is None:
        return f'{start}: {figures} ({rho.note}; {odds}).'
    if not rho.excludes_zero and agreement.chance >= LEVEL:
        return f'{start}: agreement is not shown, {figures}; the interval contains 0, and {odds}.'
    if not rho.excludes_zero or agreement.chance >= LEVEL:
        side = 'leaves out' if rho.excludes_zero else 'contains'
        return f'{start}: agreement is uncertain, {figures}; the interval {side} 0, but {odds}.'
    return f'{start}: the orders {"agree" if rho.value > 0 else "oppose each other"}, {figures}; {odds}.'


def contrast_sentences(contrast: Contrast) -> list[str]:
    """Return the findings of a contrast: the gain, the agreement of the orders, the correlations."""
    first, second = {
        'pretraining': ('pretrained', 'from scratch'),
        'freezing': ('fine-tuned', 'frozen'),
    }[contrast.kind]
    gain, n = contrast.gain, len(contrast.nets)
    better = sum(a > b for _, a, b in contrast.nets)
    nets = 'net' if n == 1 else 'nets'
    head = f'{first.capitalize()} against {second}: {gain.value or 0:+.1f} points of AP on average'
    if gain.low is None or gain.high is None:
        found = [f'{head}, {better} of {n} {nets} better; {gain.note}.']
    else:
        sure = 'a gain' if gain.low > 0 else 'a loss' if gain.high < 0 else 'no difference is shown'
        found = [f'{head} [{gain.low:+.1f}, {gain.high:+.1f}] ({sure}), {better} of {n} {nets} better.']
    if n >= LEAST and contrast.spearman.value is not None:
        found.append(f'Between their orders of the networks ρ = {figure(contrast.spearman)}, n = {n}.')
    if n >= LEAST and contrast.rho_a and contrast.rho_b and None not in (
        contrast.rho_a.value, contrast.rho_b.value,
    ):  # fmt: skip
        found.append(
            f'The same accuracies correlate with AP {first} at ρ = {figure(contrast.rho_a)} '
            f'and with AP {second} at ρ = {figure(contrast.rho_b)}.'
        )
    return found


def absent(study: Study) -> list[str]:
    """Return the questions that the data cannot answer."""
    kinds = {contrast.kind for contrast in study.contrasts}
    found = []
    if 'pretraining' not in kinds:
        found.append('Pretrained against random weights: no two settings differ only in this.')
    if 'freezing' not in kinds:
        found.append('Frozen against fine-tuned: no two settings differ only in this.')
    if not any('data' in agreement.differ for agreement in study.agreements):
        found.append(
            'One data set against another: no two settings with equal initial weights share three networks.'
        )
    return found


def figure(estimate: Estimate) -> str:
    """Return an estimate as ``0.93 [0.71, 0.98]``."""
    if estimate.value is None:
        return 'not defined'
    if estimate.low is None or estimate.high is None:
        return f'{estimate.value:.2f}'
    return f'{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]'


def share(value: float) -> str:
    """Return a share in percent, with enough digits not to be 0."""
    percent = 100 * value
    return f'{percent:.0f} %' if percent >= 9.5 or percent == 0 else f'{percent:.2g} %'


def listing(names: Sequence[str]) -> str:
    """Return names separated by commas and "and"."""
    between = '; ' if any(',' in name for name in names) else ', '
    return names[0] if len(names) == 1 else f'{between.join(names[:-1])} and {names[-1]}'
