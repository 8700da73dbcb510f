"""The recorded graph as modules a person could have written, and their source."""
