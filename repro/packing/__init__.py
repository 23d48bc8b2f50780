"""Carry runs to another machine and back: as one folder, cut into parts. Never imports torch."""
