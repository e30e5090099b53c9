"""The routes that don't generate, by what they are about."""
