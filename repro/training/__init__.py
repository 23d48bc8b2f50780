"""Schedule, optimizer, step, loop, checkpoints and suites."""
