"""Rate-distortion optimised split inference of transformers."""

__version__ = "0.1.0"
