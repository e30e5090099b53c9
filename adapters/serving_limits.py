"""What a server accepts unless it was told otherwise; the server's settings and the trainer's
`check` read the same numbers."""

MAX_LORA_RANK = 64
"""The largest rank of an adapter (`--max-lora-rank`)."""

ADAPTER_PAGES = 128
"""Places for eight rank components each in the device's bank (`--adapter-bank-pages`)."""
