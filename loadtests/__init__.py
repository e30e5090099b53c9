"""Measurements against a running server. Nothing here is imported by the product."""
