"""Adapters by name and in host memory: catalog, cache, verified loads, upkeep of the store."""
