"""The shapes that rows come in, and what each of them says."""
