"""Named, versioned PEFT adapters: names, format, manifest, store. Imports no torch."""
