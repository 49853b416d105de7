"""Latency of the networks of a leaderboard, from a file of tools/latency.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compactdet.deploy import latency_file
from compactdet.errors import UserError


@dataclass(frozen=True)
class Latencies:
    """Latencies of one measurement with one backend.

    Attributes:
        setting: Machine, backend, threads, images per inference and image size.
        median_ms: Median of each network in milliseconds, with its 95 % interval: value, low, high.
        ratios: Ratio of each network to the reference in the same rounds, in the same form.
    """

    setting: str
    median_ms: Mapping[str, tuple[float, float, float]]
    ratios: Mapping[str, tuple[float, float, float]]

    def ordered(self, one: str, other: str) -> bool:
        """Return False if the interval of the ratio of two networks contains 1.

        The interval is that of the quotient of both ratios to the reference, from end to end, so it is
        wide rather than narrow.
        """
        (_, low, high), (_, other_low, other_high) = self.ratios[one], self.ratios[other]
        return one == other or high < other_low or other_high < low


NONE = Latencies('', {}, {})


def read(path: Path) -> Latencies:
    """Read a file of tools/latency.py.

    Raises:
        UserError: The file is not valid, is marked as not usable, or has several backends, numbers of
            threads, batches or sizes.
    """
    content = latency_file.read(path)
    if not content['usable']:
        raise UserError(
            f'{path} is marked as not usable ({content["problems"][0]}); measure again on an idle machine'
        )
    settings = sorted({_setting(result) for result in content['results']})
    if len(settings) > 1:
        raise UserError(
            f'{path} has several settings ({"; ".join(settings)}); run tools/latency.py with one backend, '
            'number of threads and size for the leaderboard'
        )
    hardware = content['hardware']
    return Latencies(
        f'{hardware["cpu"]}, {settings[0]}',
        {result['name']: _interval(result['median_ms']) for result in content['results']},
        {result['name']: _interval(result['ratio']) for result in content['results']},
    )


def _setting(result: Mapping[str, Any]) -> str:
    size = 'x'.join(map(str, result['size']))
    return f'{result["backend"]}, threads: {result["threads"]}, batch: {result["batch"]}, {size}'


def _interval(value: Mapping[str, float] | None) -> tuple[float, float, float]:
    """Return value, low and high; 1 for the missing ratio of the reference."""
    return (1.0, 1.0, 1.0) if value is None else (value['value'], value['low95'], value['high95'])
