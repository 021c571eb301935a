"""From artefacts to what a person reads: the table of points, curves, figures, page and summary."""
