"""Using a split model: front and back apart, and only packets of the codec between them."""
