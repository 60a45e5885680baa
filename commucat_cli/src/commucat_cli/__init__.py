"""Operator commands and the terminal client of CommuCat."""
