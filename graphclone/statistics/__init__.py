"""Measures what matters: data sources, the probe that sums in ONNX Runtime, statistics, and scores made of them."""
