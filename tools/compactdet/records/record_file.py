"""``record.json``: the record of a run, checked and immutable.

The schema (``work_dirs_template/record.schema.json``, for a pretraining ``pretraining.schema.json``; JSON
Schema 2020-12) is applied on writing and on reading; NaN and infinity are errors. Two keys are computed
from the content:

- ``protocol``: everything that must be equal for two results to be ranked together (see
  ``compactdet.records.protocol``);
- ``run``: the protocol, the network, the seed, the initial weights and the resolved config. Measured values
  are in neither, so a repeated run has the same keys.

A protocol by an earlier rule is made anew on reading, with the keys; the file stays as it is.
"""

import difflib
import functools
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import jsonschema

from compactdet.errors import UserError
from compactdet.files import unique_keys, write_whole
from compactdet.records.pretraining_types import PretrainingRecord, PretrainingRecordContent
from compactdet.records.protocol import current_protocol
from compactdet.records.record_types import Keys, Record, RecordContent

SCHEMA_VERSION = 1
SCHEMAS = Path(__file__).parents[3] / 'work_dirs_template'
SCHEMA_FILE = SCHEMAS / 'record.schema.json'
PRETRAINING = 'pretraining'  # `kind` of such a record; the record of a detector has none
PRETRAINING_SCHEMA_FILE = SCHEMAS / 'pretraining.schema.json'
LARGEST = 1e300  # larger than any metric; sums of values near the limit of float64 overflow
KEY_LENGTH = 12  # hexadecimal digits, 48 bits: enough for any number of runs


def canonical_json(value: Any) -> str:
    """Return the one text of a value: keys sorted, no spaces, ASCII, no NaN.

    Raises:
        ValueError: The value contains NaN or infinity.
    """
    return json.dumps(value, sort_keys=True, separators=(',', ':'), allow_nan=False)


def content_key(value: Any) -> str:
    """Return the first 12 hexadecimal digits of the SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:KEY_LENGTH]


def text_sha256(text: str) -> str:
    """Return the SHA-256 of a text in UTF-8, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def finish(record: RecordContent | PretrainingRecordContent) -> Record | PretrainingRecord:
    """Return a checked copy of the record with ``config.sha256`` and ``keys`` computed.

    Raises:
        UserError: The record does not match the schema. The message names the place.
    """
    try:
        finished: Any = json.loads(json.dumps(record))  # tuples become lists
    except (TypeError, ValueError) as error:
        raise UserError(f'record: not representable in JSON: {error}') from error
    config = finished.get('config')
    if isinstance(config, dict) and isinstance(config.get('text'), str):
        config['sha256'] = text_sha256(config['text'])
    blank = '0' * KEY_LENGTH
    finished['keys'] = {'protocol': blank, 'run': blank}
    _check(finished, 'record')
    finished['keys'] = _keys(finished)
    return finished


def write(path: Path | str, record: RecordContent | PretrainingRecordContent) -> Record | PretrainingRecord:
    """Complete the record, write it and return it. The record of a run is written once.

    Raises:
        UserError: The record does not match the schema, the file exists with other content, or it cannot be
            written. No partial file is left.
    """
    path = Path(path)
    finished = finish(record)
    text = json.dumps(finished, indent=2, ensure_ascii=False, allow_nan=False) + '\n'
    if not path.exists():
        write_whole(path, text)
        return finished
    try:
        same = path.read_bytes() == text.encode()
    except OSError as error:
        raise UserError(f'{path}: the record cannot be read: {error.strerror}') from error
    if not same:
        raise UserError(
            f'{path} is the record of another run, and a record is never overwritten; '
            'give the new run another --work-dir, or move the old folder'
        )
    return finished


def read(path: Path | str) -> Record:
    """Read the record of a detector and check it: schema, finite numbers, keys that match the content.

    Raises:
        UserError: The record is not valid, or is that of a pretraining. The message names the file and the
            place in JSON path notation.
    """
    record = _load(Path(path))
    if is_pretraining_record(record):
        raise UserError(
            f'{path}: this is the record of a pretraining; give that of a detector (tools/train.py)'
        )
    return cast(Record, _checked(record, path))


def read_pretraining(path: Path | str) -> PretrainingRecord:
    """Read the record of a pretraining and check it as ``read`` does.

    Raises:
        UserError: The record is not valid, or is that of a detector.
    """
    record = _load(Path(path))
    if not is_pretraining_record(record):
        raise UserError(
            f'{path}: this is the record of a detector; give that of a pretraining (tools/pretrain.py)'
        )
    return cast(PretrainingRecord, _checked(record, path))


def read_any(path: Path | str) -> Record | PretrainingRecord:
    """Read the record of a detector or of a pretraining and check it as ``read`` does.

    Raises:
        UserError: The record is not valid.
    """
    return _checked(_load(Path(path)), path)


def is_pretraining(path: Path) -> bool:
    """Return True if a file is the record of a pretraining, valid or not."""
    try:
        return is_pretraining_record(_load(path))
    except UserError:  # the function that reads the record raises the error
        return False


def is_pretraining_record(record: Any) -> bool:
    """Return True if the content of a JSON file is the record of a pretraining."""
    return isinstance(record, dict) and record.get('kind') == PRETRAINING


def initial_weights_top1(record: Record) -> float | None:
    """Return the top-1 accuracy in percent that the initial weights of a run state; None if unknown."""
    pretraining = record['init']['pretraining']
    return None if pretraining is None else pretraining['top1']


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding='utf-8'), object_pairs_hook=unique_keys)
    except OSError as error:
        raise UserError(f'{path}: the record cannot be read: {error.strerror}') from error
    except (ValueError, RecursionError) as error:
        raise UserError(f'{path}: not a JSON file: {error}') from error


def _checked(record: Any, path: Path | str) -> Any:
    """Return a record after checking it, as ``read`` describes, with its protocol by the present rule."""
    _check(record, str(path))
    stated = {**record['keys'], 'config.sha256': record['config']['sha256']}
    actual = {**_keys(record), 'config.sha256': text_sha256(record['config']['text'])}
    for name, value in actual.items():
        if stated[name] != value:
            place = name if name.startswith('config') else f'keys.{name}'
            raise UserError(
                f'{path}: $.{place} is {stated[name]} but the content gives {value}: the file was '
                'edited after the run; restore it or repeat the run'
            )
    protocol = current_protocol(record['protocol'], record['config']['text'], f'{path}: $.config.text')
    if protocol is not record['protocol']:
        record['protocol'] = protocol
        record['keys'] = _keys(record)
    return record


def _keys(record: Record) -> Keys:
    run = {
        'protocol': record['protocol'],
        'arch': record['arch'],
        'seed': record['seed'],
        'init_sha256': record['init']['sha256'],
        'config_sha256': record['config']['sha256'],
    }
    return {'protocol': content_key(record['protocol']), 'run': content_key(run)}


@functools.cache
def _validator(file: Path) -> jsonschema.Draft202012Validator:
    try:
        schema = json.loads(file.read_text(encoding='utf-8'))
    except OSError as error:
        raise UserError(f'{file}: {error.strerror}; records need the checkout: pip install -e .') from error
    return jsonschema.Draft202012Validator(schema)


def _check(record: Any, name: str) -> None:
    """Check finite numbers, schema and the range of metrics.

    Args:
        record: Content of the record, with any ``keys``.
        name: Name of the record in messages.

    Raises:
        UserError: The record is not valid.
    """
    for place in _not_finite(record, '$'):
        raise UserError(
            f'{name}: {place} is NaN, infinite, above {LARGEST:g} or below its inverse; write null for '
            'a missing value'
        )
    schema = PRETRAINING_SCHEMA_FILE if is_pretraining_record(record) else SCHEMA_FILE
    errors = sorted(_validator(schema).iter_errors(record), key=lambda e: (len(e.path), e.json_path))
    if errors:
        raise UserError(f'{name}: {errors[0].json_path}: {_reason(errors[0])}')
    for split, metrics in record['metrics'].items():
        for metric, value in metrics.items() if isinstance(metrics, dict) else ():
            if metric.startswith(('voc/', 'coco/')) and value is not None and not 0 <= value <= 1:
                raise UserError(
                    f"{name}: $.metrics.{split}['{metric}'] is {value}; must be a share from 0 to 1"
                )


def _reason(error: jsonschema.ValidationError) -> str:
    """Return the reason in one short line; for some errors, the library's message has the whole object."""
    instance: Any = error.instance
    schema: Any = error.schema
    if error.validator == 'additionalProperties':
        known = list(schema['properties'])
        unknown = next(key for key in instance if key not in known)
        near = difflib.get_close_matches(unknown, known, n=1)
        return f'unknown key "{unknown}"' + (f'; did you mean "{near[0]}"?' if near else '')
    if error.validator == 'required':
        missing = next(key for key in schema['required'] if key not in instance)
        return f'missing key "{missing}"'
    shown = json.dumps(instance)
    shown = shown if len(shown) <= 60 else shown[:57] + '...'
    return f'{shown} does not match "{error.validator}": {json.dumps(error.validator_value)}'


def _not_finite(value: Any, place: str) -> Iterator[str]:
    """Yield the places of numbers that are not finite, or too large or small for calculations."""
    in_range = not isinstance(value, int | float) or value == 0 or 1 / LARGEST < abs(value) < LARGEST
    if not in_range:  # NaN too
        yield place
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _not_finite(item, f'{place}.{key}')
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _not_finite(item, f'{place}[{index}]')
