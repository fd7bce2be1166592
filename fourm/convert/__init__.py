"""Foreign checkpoint formats, each a table of named rules with total key coverage."""
