"""The compatibility matrix: architectures x exporters, every cell exported, cut and examined.

rows.py and its tables say what is built, columns.py how it becomes ONNX, cell.py what is asked of each file.
"""
