"""A graph as a PyTorch module, trained, and its weights back in the graph."""
