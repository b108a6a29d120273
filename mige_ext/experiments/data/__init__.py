"""Image sets: the list of known sets, download, cache, file formats, and the command ``data``."""
