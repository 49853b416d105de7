"""Types of the content of a pretraining's ``record.json``.

They have the keys of ``work_dirs_template/pretraining.schema.json``. None stands for an unknown or
undefined value.
"""

from __future__ import annotations

from typing import TypedDict, final

from compactdet.records.record_types import Keys, Protocol, RecordHeading, RunFacts


class ClassificationSplit(TypedDict):
    """A split of a classification data set.

    Attributes:
        images: Number of images.
        source: Names of the files.
        sha256: SHA-256 of the whole split, including held-out images: of pixels and labels, or of names,
            sizes and classes of the files.
    """

    images: int
    source: str
    sha256: str


class ClassificationDatasetFacts(TypedDict):
    """A classification data set.

    Attributes:
        name: Name.
        classes: Class names in the order of the labels.
        splits: Splits by name: 'train' without the held-out images, 'val' if images are held out, 'test'.
    """

    name: str
    classes: list[str]
    splits: dict[str, ClassificationSplit]


# Keys as in `InitialWeights`; `loaded` is the share of the network's entries that the file filled.
PretrainingInitialWeights = TypedDict(
    'PretrainingInitialWeights',
    {'class': str, 'file': str | None, 'sha256': str | None, 'loaded': float | None},
)


@final
class NetworkCosts(TypedDict):
    """Costs of a network in training form for one training image.

    Attributes:
        size: Side of the image in pixels.
        macs: Multiply-adds of convolutions and fully connected layers.
        params: Number of parameters.
    """

    size: int
    macs: int
    params: int


class Accuracies(TypedDict):
    """Accuracies from 0 to 1.

    Attributes:
        top1: Top-1 accuracy.
        top5: Top-5 accuracy; None with fewer than five classes.
    """

    top1: float | None
    top5: float | None


class SplitAccuracies(TypedDict):
    """Accuracies by split, of the weights of the last epoch.

    Attributes:
        val: Accuracies on held-out training images; None if none were held out.
        test: Accuracies on the test split.
    """

    val: Accuracies | None
    test: Accuracies


class WeightsFile(TypedDict):
    """The weights file that a pretraining writes.

    Attributes:
        file: File name.
        sha256: SHA-256 of the file, 64 hexadecimal digits.
    """

    file: str
    sha256: str


class PretrainingRecordContent(RecordHeading, RunFacts):
    """The record of a pretraining without ``keys``, which ``record_file.finish`` computes.

    Attributes:
        schema_version: Version of the schema.
        kind: 'pretraining', which distinguishes the record from that of a detector.
        dataset: The data set.
        protocol: The protocol.
        init: The initial weights.
        costs: Costs.
        metrics: Accuracies by split.
        weights: The weights file.
    """

    schema_version: int
    kind: str
    dataset: ClassificationDatasetFacts
    protocol: Protocol
    init: PretrainingInitialWeights
    costs: NetworkCosts
    metrics: SplitAccuracies
    weights: WeightsFile


class PretrainingRecord(PretrainingRecordContent):
    """The record of a pretraining.

    Attributes:
        keys: Hashes computed from the content.
    """

    keys: Keys
