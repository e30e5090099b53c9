"""What an adapter is relative to: the base model, its 4-bit spec, its chat template.

Trainer and server both load the base through `adapters.base.loading.load_base`, so an adapter is
served on exactly the weights it was trained on.
"""
