"""Benchmarks of speed and of resuming. Run each as ``python -m compactdet.benchmarks.NAME``."""
