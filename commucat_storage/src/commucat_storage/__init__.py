"""Durable state of a CommuCat server behind one batch-shaped interface."""
