"""How fast training is on this device: our engine, loops written as usual, and what the device itself allows."""
