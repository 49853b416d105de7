"""Plot of latency against multiply-adds, one panel per backend."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter

from compactdet.chart_style import FAINT, OKABE_ITO, encode, new_figure, styled
from compactdet.latency_study.networks import DENSE, DEPTHWISE, GROUPED, StudyNetwork
from compactdet.latency_study.study import BackendStudy

STYLES = {GROUPED: (OKABE_ITO[1], 's'), DEPTHWISE: (OKABE_ITO[0], 'o'), DENSE: (OKABE_ITO[2], '^')}
PANEL = 4.2  # inches
LABELS = 6  # of the slowest networks for their multiply-adds


def draw(networks: Sequence[StudyNetwork], studies: Sequence[BackendStudy]) -> bytes:
    """Return the plot as a PNG file; equal studies give equal bytes."""
    with styled():
        figure = new_figure(PANEL * len(studies), PANEL)
        all_axes = figure.subplots(1, len(studies), sharex=True, sharey=True, squeeze=False)[0]
        for axes, study in zip(all_axes, studies, strict=True):
            _draw(axes, networks, study)
        all_axes[0].set_ylabel('latency of one image (ms)')
        handles, labels = all_axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc='outside lower center', ncols=len(handles))
        return encode(figure)


def _draw(axes: Axes, networks: Sequence[StudyNetwork], study: BackendStudy) -> None:
    for kind, (color, marker) in STYLES.items():
        own = [network for network in networks if network.kind == kind]
        axes.scatter(
            [network.macs / 1e6 for network in own],
            [network.latency_ms[study.backend].value for network in own],
            s=18, c=color, marker=marker, alpha=0.85, linewidths=0, label=f'{kind} convolutions', zorder=3,
        )  # fmt: skip
    macs = np.array([network.macs for network in networks]) / 1e6
    latency = np.array([network.latency_ms[study.backend].value for network in networks])
    ends = np.array([macs.min(), macs.max()])
    constant = np.mean(np.log(latency)) - study.exponent * np.mean(np.log(macs))
    axes.plot(
        ends, np.exp(constant + study.exponent * np.log(ends)), color=OKABE_ITO[6], linewidth=1, zorder=2,
        label='least-squares fit',
    )  # fmt: skip
    axes.set_xscale('log')
    axes.set_yscale('log')
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter('{x:g}')
        axis.set_minor_formatter(NullFormatter())
    axes.grid(color=FAINT)
    rho = study.costs[0].rho.value
    title = study.backend if rho is None else f'{study.backend}: rank correlation {rho:.2f}'
    axes.set_title(title, loc='left')
    axes.set_xlabel('multiply-adds at 224x224 (millions)')
    by_name = {network.name: network for network in networks}
    drawn: list[float] = []
    for factor in study.factors[: 2 * LABELS]:
        network = by_name[factor.name]
        height = np.log(network.latency_ms[study.backend].value)
        if len(drawn) == LABELS or any(abs(height - other) < 0.16 for other in drawn):
            continue  # labels would overlap
        drawn.append(height)
        axes.annotate(
            f'{factor.name} ({factor.factor:.1f}x)',
            (network.macs / 1e6, network.latency_ms[study.backend].value), xytext=(-4, 3),
            textcoords='offset points', ha='right', fontsize=6.5,
        )  # fmt: skip
