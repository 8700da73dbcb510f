"""How neurons flow through operators: one row each, by (domain, operator).

A row is a function ``(trace, node, inputs) -> output values`` that moves, unites or pins the factors of the inputs. An
operator that changed its form between versions (axes as attribute, then as input) reads both in its one row. To add an
operator, write its row in the file of its kind and a case in tests/anatomy/flow_cases/.
"""

from graphclone.anatomy.flows import attention, elementwise, indexing, linear, movement, norms, quantised
from graphclone.anatomy.flows.table import TABLE

__all__ = ["TABLE", "attention", "elementwise", "indexing", "linear", "movement", "norms", "quantised"]
