"""What is told of each request: its id, its line in the log, its metrics and its spans."""
