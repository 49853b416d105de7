"""Deployment of trained networks: export to ONNX, latency."""
