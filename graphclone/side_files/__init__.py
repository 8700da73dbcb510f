"""Files beside a model that state its sizes (config.json, genai_config.json): what they say of the clone."""

from graphclone.side_files.folder import Written, reads, refuse, source, write

__all__ = ["Written", "reads", "refuse", "source", "write"]
