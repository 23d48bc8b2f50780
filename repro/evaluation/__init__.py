"""Testing trained networks."""
