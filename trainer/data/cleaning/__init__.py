"""What a row must be to be trained on, each rule counted."""
