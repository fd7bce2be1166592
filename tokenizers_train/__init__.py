"""Thin entry points that train tokenizers and apply them; the same as the `fourm` commands."""
