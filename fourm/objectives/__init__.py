"""Objectives: what is shown, what is asked, and how answers are scored."""
