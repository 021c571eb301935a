"""Codecs for representations: one file a codec, one registry."""
