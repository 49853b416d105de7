"""Benchmarks of speed and of resuming; run each with python -m."""
