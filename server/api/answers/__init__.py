"""The answers of the generating routes, whole and as streams of events."""
