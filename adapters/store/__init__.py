"""Versions and aliases on disk or elsewhere, changed atomically."""
