"""Request bodies: their fields and the bounds of each."""
