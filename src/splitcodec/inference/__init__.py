"""Using a split model: a codec inside it, or front and back apart with only its packets between."""
