"""Cutting a model in two: the front gives the representation, the back the logits."""
