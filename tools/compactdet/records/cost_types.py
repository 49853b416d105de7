"""Types of the entry ``costs`` of a record."""

from typing import TypedDict, final


class NotMeasured(TypedDict, total=False):
    """Key with the reasons why values are None, by their keys; missing if all were measured."""

    not_measured: dict[str, str]


class NetworkCosts(NotMeasured):
    """Costs of the network alone, whatever the detector. None stands for a value that was not measured.

    Attributes:
        size: Height and width of the image in pixels: 224, or the published size if that is smaller.
        trunk_macs: Multiply-adds without the classifier's head.
        classifier_macs: Multiply-adds of the whole network with the published number of classes.
        trunk_params: Parameters without the classifier's head.
        classifier_params: Parameters of the whole network.
    """

    size: int | None
    trunk_macs: int | None
    classifier_macs: int | None
    trunk_params: int | None
    classifier_params: int | None


class Neck(TypedDict, total=False):
    """Key that older records lack: the neck alone, a part of ``backbone_macs``; 0 without neck."""

    neck_macs: int | None


class DetectorMacs(Neck, NotMeasured):
    """Multiply-adds of the layers of a detector for one image. None: it could not be measured.

    Attributes:
        height: Height of the padded image in pixels.
        width: Width of the padded image in pixels.
        backbone_macs: Backbone and neck.
        rpn_macs: RPN; dense head of a single-stage detector.
        roi_head_macs_per_proposal: RoI head for one proposal; 0 for a single-stage detector.
        num_proposals: Number of proposals at test.
        roi_head_macs: RoI head for all proposals.
        total_macs: Whole detector.
    """

    height: int | None
    width: int | None
    backbone_macs: int | None
    rpn_macs: int | None
    roi_head_macs_per_proposal: int | None
    num_proposals: int | None
    roi_head_macs: int | None
    total_macs: int | None


class DetectorParams(TypedDict):
    """Numbers of parameters of a detector.

    Attributes:
        backbone: Backbone and neck.
        rpn: RPN; dense head of a single-stage detector.
        roi_head: RoI head, including the stage head.
        total: Whole detector.
    """

    backbone: int
    rpn: int | None
    roi_head: int | None
    total: int


class Network(TypedDict, total=False):
    """Key that older records lack; see `compactdet.records.network_costs`."""

    network: NetworkCosts


@final
class Costs(Network):
    """Costs of a detector; learned sparsity is in its test-time form.

    Attributes:
        params: Numbers of parameters.
        at_224: Multiply-adds at 224x224.
        at_input: Multiply-adds at the size of the median test image, resized and padded.
    """

    params: DetectorParams
    at_224: DetectorMacs
    at_input: DetectorMacs
