"""What a decoded representation is worth: fidelity of the model's output, and time a token."""
