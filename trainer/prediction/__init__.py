"""What a run will need before it begins: memory from shapes, time from a short trial."""
