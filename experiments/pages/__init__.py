"""Numbers into pages."""
