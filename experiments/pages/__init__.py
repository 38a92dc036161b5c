"""Generates the published pages."""
