"""Fitting codecs: sensitivity of the back, losses, the training loop and its checkpoints."""
