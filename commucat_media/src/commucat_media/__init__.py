"""Media packets of CommuCat calls."""
