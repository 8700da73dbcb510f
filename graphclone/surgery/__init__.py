"""Makes the clone of a plan: drops blocks, slices weights, and rewrites every size that follows."""
