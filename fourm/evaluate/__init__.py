"""Measuring trained models on held-out data: metrics, baselines, protocols and their reports."""
