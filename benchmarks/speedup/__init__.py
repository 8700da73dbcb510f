"""How many times faster a clone trains than a start from nothing, and than the paper's clone: runs, figures, tables."""
