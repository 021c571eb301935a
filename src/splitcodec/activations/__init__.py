"""Representations of real inputs: extraction in one pass and the Parquet store."""
