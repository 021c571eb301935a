"""Bounds on the rate of a representation, as numbers."""
