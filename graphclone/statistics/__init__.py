"""What matters: data sources, the probe that measures in ONNX Runtime, the sums it keeps, the scores made of them."""
