"""Types of the content of a detector's ``record.json``.

They have the keys of ``work_dirs_template/record.schema.json``, which ``compactdet.records.record_file``
checks. None stands for an unknown or undefined value.
"""

from __future__ import annotations

from typing import Any, TypedDict

from compactdet.records.cost_types import Costs

# Settings that must be equal for two results to be ranked together. They are sections of the config, in
# which any key may occur; see ``compactdet.records.protocol``.
Protocol = dict[str, Any]

# Metric values by name, such as 'voc/ap50_11point', from 0 to 1.
Metrics = dict[str, float | None]


class Keys(TypedDict):
    """Hashes of parts of a record: 12 hexadecimal digits.

    Attributes:
        protocol: Hash of the protocol. Results with the same key may be ranked together.
        run: Hash of what defines the run. A repeated run has the same key.
    """

    protocol: str
    run: str


class ConfigText(TypedDict):
    """The config of a run.

    Attributes:
        file: Name of the config file, without its folder.
        text: The config as Python text, with every base and override resolved.
        sha256: SHA-256 of ``text``, 64 hexadecimal digits.
    """

    file: str
    text: str
    sha256: str


class GitState(TypedDict):
    """State of the checkout when the training started.

    Attributes:
        commit: Hash of the commit.
        dirty: Whether files were changed or not tracked.
    """

    commit: str
    dirty: bool


class Hardware(TypedDict):
    """The machine of a run.

    Attributes:
        cpu: Name of the processor.
        cores: Number of cores that the process could use.
        threads: Number of PyTorch's threads.
        gpu: Name of the GPU; None for a CPU.
        gpu_memory_bytes: Memory of the GPU in bytes.
        memory_bytes: Main memory in bytes.
        platform: Operating system.
    """

    cpu: str
    cores: int
    threads: int
    gpu: str | None
    gpu_memory_bytes: int | None
    memory_bytes: int | None
    platform: str


class ChosenCheckpoint(TypedDict):
    """The checkpoint that was best on val.

    Attributes:
        checkpoint: File name.
        epoch: Epoch after which it was saved.
        metric: Metric by which it was chosen.
        value: Value of this metric on val.
    """

    checkpoint: str
    epoch: int | None
    metric: str
    value: float


class Processes(TypedDict, total=False):
    """Keys of `Training` that older records do not have.

    Attributes:
        processes: Number of processes.
        batch_size_per_process: Images per step in one process.
    """

    processes: int
    batch_size_per_process: int


class Training(Processes):
    """Duration, speed and memory of a training over all resumes.

    Attributes:
        wall_s: Wall time in seconds, including validations and the saving of checkpoints.
        iterations: Number of optimizer steps.
        epochs: Number of epochs.
        images_per_s: Images per second of the steps and the loading of their data; None if too few steps
            were timed.
        batch_size: Images per step over all processes.
        peak_memory_bytes: Peak memory in bytes: of PyTorch on a GPU; on a CPU, of the process plus its
            largest child.
        chosen: The evaluated checkpoint, if it was chosen by a metric on val; None for the last one.
    """

    wall_s: float
    iterations: int
    epochs: float | None
    images_per_s: float | None
    batch_size: int
    peak_memory_bytes: int | None
    chosen: ChosenCheckpoint | None


class Evaluation(TypedDict):
    """Speed of the evaluation on the test split.

    Attributes:
        wall_s: Wall time in seconds.
        images_per_s: Images per second.
    """

    wall_s: float
    images_per_s: float | None


class RecordHeading(TypedDict):
    """Time and network of a run.

    Attributes:
        created_utc: End of the run, such as ``2026-01-31T12:00:00Z``.
        arch: Registered name of the network.
        family: Name of the class that builds it.
    """

    created_utc: str
    arch: str
    family: str


class RunFacts(TypedDict):
    """What is needed to repeat a run, and its duration.

    Attributes:
        seed: Seed of all random numbers.
        config: The config.
        command: The command line.
        git: State of the checkout; None if the suite was not run from a checkout.
        versions: Version of each package that can affect results; None if it is not installed.
        hardware: The machine.
        training: Duration, speed and memory of the training.
        evaluation: Speed of the evaluation.
    """

    seed: int
    config: ConfigText
    command: str
    git: GitState | None
    versions: dict[str, str | None]
    hardware: Hardware
    training: Training
    evaluation: Evaluation


class DroppedBoxes(TypedDict):
    """Boxes without area that were dropped from an image.

    Attributes:
        image: Image id.
        objects: Numbers of the boxes in the annotation file, from 1.
    """

    image: str
    objects: list[int]


class TrainingImage(TypedDict):
    """An image of another split that is also a training image.

    Attributes:
        image: Name of its file.
        train_image: Name of the file of the training image, which has the same pixels or is the same file.
    """

    image: str
    train_image: str


class Leaks(TypedDict, total=False):
    """Keys of `Split` that 'train' and older records do not have.

    Attributes:
        also_in_train: Images that are also training images; trained on by request only.
    """

    also_in_train: list[TrainingImage]


class Split(Leaks):
    """A split of a detection data set.

    Attributes:
        images: Number of images.
        boxes: Number of ground-truth boxes, including difficult ones.
        difficult: Number of difficult or crowd boxes.
        dropped: Dropped boxes.
        annotations_sha256: SHA-256 of the annotations as they are used.
        ann_file: Path of the annotation file, relative to the folder of the data set.
    """

    images: int
    boxes: int
    difficult: int
    dropped: list[DroppedBoxes]
    annotations_sha256: str
    ann_file: str


class DatasetFacts(TypedDict):
    """A detection data set.

    Attributes:
        name: Name.
        classes: Class names in the order of the labels.
        splits: Splits by name: 'train', 'val' if the config uses one, 'test'.
    """

    name: str
    classes: list[str]
    splits: dict[str, Split]


class LoadedShares(TypedDict):
    """Shares of a detector's state-dict entries that the initial weights filled, from 0 to 1.

    Attributes:
        backbone: Backbone; None without initial weights.
        shared_head: Stage head; None without initial weights or stage head.
    """

    backbone: float | None
    shared_head: float | None


class PretrainingOfWeights(TypedDict):
    """How the initial weights were trained.

    Attributes:
        data: Data set.
        recipe: Description of the training.
        top1: Top-1 accuracy in percent.
        top5: Top-5 accuracy in percent.
    """

    data: str | None
    recipe: str | None
    top1: float | None
    top5: float | None


# Keys:
#   class: Data set of the pretraining, such as 'ImageNet (ILSVRC 2012)'; 'none' for random initialization.
#   file: Name of the weights file, without its folder.
#   sha256: SHA-256 of the weights file, 64 hexadecimal digits.
#   loaded: Share of the entries that the file filled.
#   pretraining: How the weights were trained.
InitialWeights = TypedDict(  # `class` is not a name in Python
    'InitialWeights',
    {
        'class': str,
        'file': str | None,
        'sha256': str | None,
        'loaded': LoadedShares,
        'pretraining': PretrainingOfWeights | None,
    },
)


class SplitMetrics(TypedDict):
    """Metrics by split.

    Attributes:
        val: Metrics of the tested checkpoint, or of the last validation; None without validation.
        test: Metrics of the tested checkpoint; empty if the evaluator gave none. ``NAME_low95`` and
            ``NAME_high95`` are the ends of the 95 % bootstrap interval of ``NAME`` over test images.
    """

    val: Metrics | None
    test: Metrics


class RecordContent(RecordHeading, RunFacts):
    """The record of a detector without ``keys``, which ``record_file.finish`` computes.

    Attributes:
        schema_version: Version of the schema.
        detector: Name of the detector, such as 'frcnn_c4'; see ``compactdet.config.detector``.
        dataset: The data set.
        protocol: The protocol.
        init: The initial weights.
        costs: Costs.
        metrics: Metrics by split.
    """

    schema_version: int
    detector: str
    dataset: DatasetFacts
    protocol: Protocol
    init: InitialWeights
    costs: Costs
    metrics: SplitMetrics


class Record(RecordContent):
    """The record of a detector.

    Attributes:
        keys: Hashes computed from the content.
    """

    keys: Keys
