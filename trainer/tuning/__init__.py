"""A method put on a base: where it begins, what is trained, how that is published."""
