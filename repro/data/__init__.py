"""Data sets: files, download, batches on the device."""
