"""A report over all scenarios: a table beside targets and other servers, plots, and the figures."""
