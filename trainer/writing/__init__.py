"""Files that are written whole, only where this program has written before, and as plain JSON."""
