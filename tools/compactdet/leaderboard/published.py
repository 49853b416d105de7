"""The results that the papers print: ``published.json`` and its typed reader.

A row is a line of a table of a paper. Known errors of the papers are corrected; ``printed`` keeps the
printed value and ``note`` gives the reason. Of a result in several tables, all rows but one state in
``repeats`` which row they repeat, so that no result counts twice. `Published.results` returns each result
once, with the values that other tables of the paper give for the same network.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from compactdet.errors import UserError
from compactdet.files import load_json

FILE = Path(__file__).with_name('published.json')


@dataclass(frozen=True)
class Paper:
    """A paper: ``id`` is its arXiv id, ``name`` its short name."""

    id: str
    name: str
    title: str
    authors: str
    year: int

    @property
    def citation(self) -> str:
        """Citation, such as ``Yang et al. 2021, arXiv:2104.04382``."""
        names = self.authors.split(', ')
        who = names[0] + (' et al.' if len(names) > 2 else f' & {names[1]}' if len(names) == 2 else '')
        return f'{who} {self.year}, {self.id}'


@dataclass(frozen=True)
class Setting:
    """The conditions under which results can be compared.

    Attributes:
        name: The key that rows name.
        task: 'classification' or 'detection'.
        dataset: Name of the data set, as in records.
        metric: The metric: 'top1' (accuracy), 'voc/ap50' or 'coco/ap'.
        input: Size of the images, as the paper states it.
        detector: Name of the detector, as in records; None for classification.
        pretraining: Data set of the pretraining; None for none.
        detail: Splits, training, and what the paper does not state.
    """

    name: str
    task: str
    dataset: str
    metric: str
    input: str
    detector: str | None
    pretraining: str | None
    detail: str


@dataclass(frozen=True)
class Row:
    """A line of a table; None for missing values.

    Attributes:
        paper: Id of the paper.
        table: Its number as the paper writes it, or a section.
        model: The network as printed.
        setting: Name of a `Setting`.
        arch: Name of the network in the suite, if it is included.
        mflops: Multiply-adds in millions.
        budget: Whether the cost is a nominal size ('140 MFLOPs') instead of that of the network.
        params_m: Parameters in millions.
        layers: Number of layers. top1, top5: Accuracy in percent, if accuracy is printed. top1_err,
        top5_err: Error in percent, if error is printed.
        ap: AP in percent, by the rule of the setting.
        class_ap: AP by class, in percent.
        latency_ms: Milliseconds by image size, such as '224x224'.
        device: Device on which latency was measured.
        structure: Widths and depths as printed.
        quoted: Whether the paper quotes the result from elsewhere.
        repeats: Table of the same paper with the same result in equal or higher precision.
        printed: Printed values of corrected fields.
        note: Reason of a correction, and other remarks.
    """

    paper: str
    table: str
    model: str
    setting: str
    arch: str | None = None
    mflops: float | None = None
    budget: bool = False
    params_m: float | None = None
    layers: int | None = None
    top1: float | None = None
    top5: float | None = None
    top1_err: float | None = None
    top5_err: float | None = None
    ap: float | None = None
    class_ap: Mapping[str, float] = field(default_factory=dict)
    latency_ms: Mapping[str, float] = field(default_factory=dict)
    device: str | None = None
    structure: Mapping[str, str] = field(default_factory=dict)
    quoted: bool = False
    repeats: str | None = None
    printed: Mapping[str, Any] = field(default_factory=dict)
    note: str | None = None

    @property
    def top1_accuracy(self) -> float | None:
        """Top-1 accuracy in percent, from what is printed."""
        return _accuracy(self.top1, self.top1_err)

    @property
    def top5_accuracy(self) -> float | None:
        """Top-5 accuracy in percent, from what is printed."""
        return _accuracy(self.top5, self.top5_err)

    @property
    def result(self) -> float | None:
        """AP of a detector, top-1 accuracy of a classifier, in percent."""
        return self.top1_accuracy if self.ap is None else self.ap


def _accuracy(accuracy: float | None, error: float | None) -> float | None:
    if accuracy is None and error is not None:
        return round(100 - error, 4)  # 100 - 33.6 is 66.4, not 66.40000000000001
    return accuracy


@dataclass(frozen=True)
class Published:
    """All published results.

    Attributes:
        papers: Papers by id.
        settings: Settings by name.
        rows: Rows in the order of the papers' tables.
        families: Network family by registered name, so that reading does not load the networks.
    """

    papers: Mapping[str, Paper]
    settings: Mapping[str, Setting]
    rows: tuple[Row, ...]
    families: Mapping[str | None, str]

    def results(self, task: str | None = None) -> list[Row]:
        """Return each published result once.

        Cost, parameters and latency are taken from other tables of the paper if the row has none (or a
        budget). A detection row gets the ImageNet accuracy that the same paper prints for the network
        (``top1``, ``top5``), unless only one of the two is quoted: then they are different trainings.

        Args:
            task: 'classification' or 'detection'; None for both.
        """
        found = []
        for row in self.rows:
            setting = self.settings[row.setting]
            if row.result is None or row.repeats or task not in (None, setting.task):
                continue
            same = [r for r in self.rows if row.arch and (r.paper, r.arch) == (row.paper, row.arch)]
            costed = [r for r in same if r.mflops is not None and not r.budget]
            measured = next((r for r in same if r.latency_ms), row)
            new: dict[str, Any] = {'latency_ms': measured.latency_ms, 'device': measured.device}
            if costed and (row.mflops is None or row.budget):
                new |= {'mflops': costed[0].mflops, 'budget': False}
            if row.params_m is None:
                new['params_m'] = next((r.params_m for r in same if r.params_m is not None), None)
            if setting.task == 'detection':
                for r in same:
                    if r.setting == 'imagenet' and r.result and not r.repeats and r.quoted == row.quoted:
                        new |= {'top1': r.top1_accuracy, 'top5': r.top5_accuracy}
            found.append(replace(row, **new))
        return found


@functools.cache
def load(path: Path = FILE) -> Published:
    """Read the published results.

    Raises:
        UserError: The file cannot be read, or a row names an unknown paper, setting or field.
    """
    data = load_json(path)
    try:
        papers = {paper['id']: Paper(**paper) for paper in data['papers']}
        settings = {setting['name']: Setting(**setting) for setting in data['settings']}
        rows = tuple(Row(**row) for row in data['rows'])
        families = {arch: family for family, archs in data['families'].items() for arch in archs}
        for row in rows:
            papers[row.paper], settings[row.setting]
    except (KeyError, TypeError) as error:
        raise UserError(f'{path}: not a file of published results: {error}') from error
    return Published(papers, settings, rows, families)
