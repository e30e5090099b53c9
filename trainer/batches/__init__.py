"""Rows padded or packed into forwards."""
