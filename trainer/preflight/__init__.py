"""Everything that can be known before the first step."""
