"""Checks of a run's record that somebody else sends. Nothing in a record is trusted, and nothing of it is run."""
