"""Training, testing and inference of detectors."""
