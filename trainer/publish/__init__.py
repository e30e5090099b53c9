"""From a trained adapter to a version in the store: manifest, card, curve, export."""
