"""The command `adapters`."""
