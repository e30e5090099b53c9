"""What a run of one objective trains on, minimises and measures."""
