"""Checking what a server wrote about itself: signed heads, and the history of a device's keys."""
