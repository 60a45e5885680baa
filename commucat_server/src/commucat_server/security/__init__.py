"""Limits and secrets."""
