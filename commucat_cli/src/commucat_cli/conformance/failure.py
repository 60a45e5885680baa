"""The one way in which a conformance case says that it does not hold."""


class ConformanceFailure(Exception):  # noqa: N818 - the outcome of a case, not an error of the program
    """A vector case disagrees with what this implementation does, or has a shape nobody knows."""
