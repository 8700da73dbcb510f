"""How fast a clone is beside its parent, and how much memory each takes, as ONNX Runtime runs their files."""
