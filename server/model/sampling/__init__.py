"""From logits to a token: rules, grammars, draws and log probabilities."""
