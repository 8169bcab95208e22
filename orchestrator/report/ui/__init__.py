"""The store in a browser: read-only pages on loopback."""
