"""Which costs of a network predict its latency, from a file of tools/latency.py."""
