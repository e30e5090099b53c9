"""Adapters merged into one, and in which order a store's mergers get their turn."""
