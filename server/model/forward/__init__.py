"""The two ways through a model: transformers' modules, and the native step."""
