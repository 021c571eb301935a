"""Probability models of integers: likelihoods for training, integer tables for coding."""
