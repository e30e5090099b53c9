"""What an adapter's folder holds: its config, its tensors and its manifest."""
