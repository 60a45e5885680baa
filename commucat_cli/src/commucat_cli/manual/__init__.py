"""Everything that is generated from the commands themselves: manual pages and shell completion."""
