"""Files of the latency study: report.md, latency.png, study.json."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from compactdet.deploy.latency_file import is_uncertain
from compactdet.files import check_writable, write_whole
from compactdet.latency_study import plot
from compactdet.latency_study.networks import DENSE, DEPTHWISE, GROUPED, StudyNetwork
from compactdet.latency_study.study import COSTS, FAMILY_RESAMPLES, BackendStudy
from compactdet.transfer.correlation import Estimate

FILES = ('report.md', 'latency.png', 'study.json')
DEPLOYED, DEPLOYED_MACS = 0.3, 300e6  # the ratio to eager PyTorch that is looked for, and below which cost
KINDS = {
    GROUPED: 'networks with grouped pointwise convolutions',
    DEPTHWISE: 'networks with depthwise convolutions and no grouped pointwise ones',
    DENSE: 'networks without either',
}


def check(out: Path) -> None:
    """Raise UserError if the files of a study cannot be written into a folder."""
    for name in FILES:
        check_writable(out / name)


def write(
    out: Path, content: Mapping[str, Any], networks: Sequence[StudyNetwork], studies: Sequence[BackendStudy]
) -> list[Path]:
    """Write the files of a study.

    Args:
        out: Folder.
        content: Of the ``latency.json`` that was studied.
        networks: Its networks.
        studies: Results of each backend.

    Raises:
        UserError: A file cannot be written.
    """
    paths = [out / name for name in FILES]
    value = {
        'hardware': content['hardware'],
        'usable': content['usable'],
        'networks': [asdict(network) for network in networks],
        'backends': [asdict(study) for study in studies],
    }
    write_whole(paths[0], report(content, networks, studies))
    write_whole(paths[1], plot.draw(networks, studies))
    write_whole(paths[2], json.dumps(value, indent=1, allow_nan=False) + '\n')
    return paths


def report(
    content: Mapping[str, Any], networks: Sequence[StudyNetwork], studies: Sequence[BackendStudy]
) -> str:
    """Return the report in Markdown."""
    hardware, first = content['hardware'], content['results'][0]
    side = 'x'.join(map(str, first['size']))
    parts = [
        '# Which cost predicts latency?',
        f'{len(networks)} networks with at most {max(n.macs for n in networks) / 1e6:.0f} million '
        f'multiply-adds; images of {side}, {first["batch"]} per inference, {first["threads"]} thread(s); '
        f'{hardware["cpu"]}; {content["rounds"]} interleaved rounds (`{content["command"]}`).',
    ]
    uncertain = sum(is_uncertain(result, content['limits']) for result in content['results'])
    if uncertain:
        parts.append(
            f'{uncertain} of {len(content["results"])} medians are uncertain by more than '
            f'{content["limits"]["interval"]:.0%} (half of the 95 % interval over rounds).'
        )
    if not content['usable']:
        parts.append(
            f'**The measurement is marked as not usable:** {"; ".join(content["problems"][:3])}'
            + (f'; and {len(content["problems"]) - 3} more.' if len(content['problems']) > 3 else '.')
        )
    parts += [
        '![Latency against multiply-adds](latency.png)',
        '## Rank correlation of cost and latency',
        "Spearman's rho with its 95 % BCa bootstrap interval over networks, and a percentile interval from "
        f'{FAMILY_RESAMPLES:,} resamples of whole families, since networks of one family are alike. Memory '
        'traffic is the number of elements that convolutions and fully connected layers read and write.',
        _table(
            ('backend', 'cost', 'rho', '95 % over networks', '95 % over families'),
            (
                (
                    study.backend,
                    COSTS[cost.cost],
                    _number(cost.rho.value),
                    _range(cost.rho.low, cost.rho.high),
                    _range(*(cost.by_families or (None, None))),
                )
                for study in studies
                for cost in study.costs
            ),
        ),
        *(_memory_sentence(study) for study in studies),
        '## Within families',
        'Families with at least five networks; rho with its 95 % interval.',
        _table(
            ('family', 'networks', 'backend', *COSTS.values()),
            (
                (
                    family,
                    str(study.costs[0].families[family].n),
                    study.backend,
                    *(_estimate(cost.families[family]) for cost in study.costs),
                )
                for family in studies[0].costs[0].families
                for study in studies
            ),
        ),
        '## Slower than the multiply-adds predict',
        'Factor: latency over that of a least-squares fit of the logarithms. Geometric mean by kind of '
        'convolution, with its 95 % interval over networks:',
        _table(
            ('kind', 'networks', *(study.backend for study in studies)),
            (
                (KINDS[kind], str(studies[0].kinds[kind].n), *(_estimate(s.kinds[kind]) for s in studies))
                for kind in studies[0].kinds
            ),
        ),
        *(_slower_sentence(study) for study in studies),
        '## Deployed over eager',
        *(_eager_sentence(networks, study) for study in studies if study.eager_ratio),
        '## Accuracy and latency: the Pareto frontier',
        'Networks that no network of at least the same published ImageNet top-1 accuracy undercuts in '
        'latency, from the least to the most accurate. Two networks whose intervals of the ratio to '
        f'{content["reference"]} overlap are not ordered. The accuracies are those of different trainings.',
        *(_frontier_table(networks, study) for study in studies),
    ]
    return '\n\n'.join(parts) + '\n'


def _memory_sentence(study: BackendStudy) -> str:
    difference, partial = study.memory_minus_macs, study.memory_given_macs
    if not difference.excludes_zero:
        verdict = 'no difference is shown'
    else:
        better = 'memory traffic' if (difference.value or 0) > 0 else 'multiply-adds'
        verdict = f'{better} predict{"s" if better == "memory traffic" else ""} better'
    return (
        f'{study.backend}: rho of memory traffic minus rho of multiply-adds is {_estimate(difference)}: '
        f'{verdict}. Given the multiply-adds, the partial rank correlation of latency and memory traffic '
        f'is {_estimate(partial)}.'
    )


def _slower_sentence(study: BackendStudy) -> str:
    if not study.slower:
        return f'{study.backend}: no single network is slower by more than chance explains.'
    items = ', '.join(f'`{factor.name}` {factor.factor:.1f}' for factor in study.slower)
    return f'{study.backend}, p < 0.05 after Bonferroni: {items}.'


def _eager_sentence(networks: Sequence[StudyNetwork], study: BackendStudy) -> str:
    ratios = {n.name: study.eager_ratio[n.name] for n in networks if n.macs <= DEPLOYED_MACS}
    if not ratios:
        return f'{study.backend}: no network has at most {DEPLOYED_MACS / 1e6:.0f} million multiply-adds.'
    values = sorted(ratios.values())
    above = sorted((ratio, name) for name, ratio in ratios.items() if ratio > DEPLOYED)
    text = (
        f'{study.backend}: latency over that of eager PyTorch for the {len(values)} networks with at most '
        f'{DEPLOYED_MACS / 1e6:.0f} million multiply-adds: median {values[len(values) // 2]:.2f}, from '
        f'{values[0]:.2f} to {values[-1]:.2f}; {len(values) - len(above)} are at most {DEPLOYED}.'
    )
    if above:
        text += ' Above: ' + ', '.join(f'`{name}` {ratio:.2f}' for ratio, name in above) + '.'
    return text


def _frontier_table(networks: Sequence[StudyNetwork], study: BackendStudy) -> str:
    by_name = {network.name: network for network in networks}
    return _table(
        (study.backend, 'top-1', 'ms', 'multiply-adds (M)'),
        (
            (
                f'`{name}`',
                f'{by_name[name].top1:.1f}',
                f'{by_name[name].latency_ms[study.backend].value:.2f}',
                f'{by_name[name].macs / 1e6:.0f}',
            )
            for name in study.frontier
        ),
    )


def _estimate(estimate: Estimate) -> str:
    interval = _range(estimate.low, estimate.high)
    return _number(estimate.value) + ('' if interval == '-' else f' [{interval}]')


def _range(low: float | None, high: float | None) -> str:
    return '-' if low is None else f'{_number(low)} to {_number(high)}'


def _number(value: float | None) -> str:
    return '-' if value is None else f'{value:.2f}'


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ['---'] * len(head), *rows]
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)
