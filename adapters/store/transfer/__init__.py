"""How versions come and go: imports, archives, files elsewhere."""
