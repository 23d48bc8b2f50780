"""Weights that others trained, mapped onto our networks; and ours, to give away."""
