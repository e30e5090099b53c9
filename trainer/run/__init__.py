"""One run from its config to its published adapter, and going on with one."""
