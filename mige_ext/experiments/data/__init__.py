"""Image sets and tables: the known sets, download, cache, file formats, the command ``data``."""
