"""One module for each group of subcommands; `register(add)` adds them, heavy imports stay inside the handlers."""
