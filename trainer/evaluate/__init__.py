"""Base against adapters on the same held-out rows."""
