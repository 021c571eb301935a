"""From integer symbols to bytes: the entropy coder and the container file."""
