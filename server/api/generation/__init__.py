"""A generation request on its way from its body to the engine and back."""
