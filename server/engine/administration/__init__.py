"""What an operator sees and does: pins, aliases, removals, merges."""
