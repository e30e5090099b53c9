"""A server while its model loads, with real processes: it answers, refuses, and can be stopped."""
