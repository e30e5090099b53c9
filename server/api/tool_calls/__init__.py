"""Tool calls in a model's text, by the template family that wrote them."""
