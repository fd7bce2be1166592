"""The web page: any modality from any others, without writing code."""
