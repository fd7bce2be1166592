"""Models: embedders and heads around the shared trunk."""
