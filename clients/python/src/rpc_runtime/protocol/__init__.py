"""Decisions and formats, as plain code over data."""
