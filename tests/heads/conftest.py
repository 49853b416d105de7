import compactdet.mmdetection  # noqa: F401 - provides mmcv's operators before the tests import MMDetection
