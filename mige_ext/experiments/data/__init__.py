"""Image data sets: search, download, checksums, formats."""
