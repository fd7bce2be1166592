"""Generation: any modality from any others, step by step along a plan."""
