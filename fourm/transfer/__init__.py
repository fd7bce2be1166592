"""A trained encoder as a backbone, heads for the usual tasks, and what fine-tuning needs around them."""
