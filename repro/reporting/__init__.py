"""Tables and figures from run records and the paper's facts. Never imports torch."""
