"""Rows: read, recognised, cleaned, split, reported."""
