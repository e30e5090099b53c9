"""Dense methods as LoRA: `adapters import --fold`."""
