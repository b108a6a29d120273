"""Image sets and tables: known sets, download, cache, file formats, and the command ``data``."""
