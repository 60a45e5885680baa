"""Commands for the operator of a server; they work beside a running one."""
