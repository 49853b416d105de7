"""Published weights: catalog, download, conversion, verification."""
