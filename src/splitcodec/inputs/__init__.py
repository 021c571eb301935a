"""Where models and text come from, and how text becomes sequences of tokens."""
