"""Would a server take the adapter, and does it serve what was trained."""
