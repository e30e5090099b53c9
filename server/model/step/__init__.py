"""A scheduled batch as tensors, and one forward over it."""
