"""Makes adapters: data, labels, loop, evaluation, publishing. Imports adapters, never server."""
