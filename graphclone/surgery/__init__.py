"""Plan and parent -> clone: depth, width, and every size that follows."""
