"""``latency.json``: what tools/latency.py measured, checked against its schema."""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jsonschema

from compactdet.deploy.latency import LIMITS, Interval, Measurement, Result, uncertainty
from compactdet.errors import UserError
from compactdet.files import load_json, write_whole
from compactdet.records import environment

SCHEMA_VERSION = 1
SCHEMA = Path(__file__).parents[3] / 'work_dirs_template' / 'latency.schema.json'


def content(
    measurement: Measurement,
    reference: str | None,
    memory_mb: Mapping[int, float | None],
    hardware: Mapping[str, Any],
    command: str,
) -> dict[str, Any]:
    """Return the content of ``latency.json``.

    Args:
        measurement: The results.
        reference: Name of the network that ratios refer to.
        memory_mb: Memory of one inference by the index of the result.
        hardware: The machine, from `compactdet.records.environment`.
        command: The command line.
    """
    return {
        'schema_version': SCHEMA_VERSION,
        'created_utc': datetime.datetime.now(datetime.timezone.utc).strftime('%Y-%m-%dT%H:%M:%SZ'),
        'command': command,
        'reference': reference,
        'rounds': measurement.rounds,
        'usable': not measurement.problems,
        'problems': list(measurement.problems),
        'limits': LIMITS,
        'load': asdict(measurement.load),
        'hardware': dict(hardware),
        'versions': environment.versions(),
        'results': [_result(r, memory_mb.get(i)) for i, r in enumerate(measurement.results)],
    }


def _result(result: Result, memory_mb: float | None) -> dict[str, Any]:
    candidate = result.candidate
    return {
        'name': candidate.name,
        'backend': candidate.backend,
        'threads': candidate.threads,
        'batch': candidate.batch,
        'size': list(candidate.size),
        'median_ms': _interval(result.median),
        'p90_ms': result.p90,
        'p99_ms': result.p99,
        'ratio': None if result.ratio is None else _interval(result.ratio),
        'inferences': result.inferences,
        'warm_up': result.warm_up,
        'memory_mb': memory_mb,
        'energy_mj': result.energy_mj,
    }


def _interval(interval: Interval) -> dict[str, float]:
    return {'value': interval.value, 'low95': interval.low, 'high95': interval.high}


def is_uncertain(result: Mapping[str, Any], limits: Mapping[str, float]) -> bool:
    """Return True if the interval of a result's median is wider than the limit of its file."""
    median = result['median_ms']
    interval = Interval(median['value'], median['low95'], median['high95'])
    return uncertainty(interval) > limits.get('interval', math.inf)


def write(path: Path, value: dict[str, Any]) -> None:
    """Check and write the content of a ``latency.json``.

    Raises:
        UserError: It cannot be written.
    """
    jsonschema.validate(value, load_json(SCHEMA))
    write_whole(path, json.dumps(value, indent=1, allow_nan=False) + '\n')


def read(path: Path) -> dict[str, Any]:
    """Read a ``latency.json`` and check it against its schema.

    Raises:
        UserError: The file cannot be read, or is not of that form.
    """
    value = load_json(path)
    validator = jsonschema.Draft202012Validator(load_json(SCHEMA))
    error = jsonschema.exceptions.best_match(validator.iter_errors(value))
    if error is not None:
        place = '.'.join(map(str, error.absolute_path)) or 'the file'
        raise UserError(f'{path}: {place}: {error.message[:200]}; only tools/latency.py writes this file')
    return value
