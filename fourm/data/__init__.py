"""Aligned modalities from disk to batches: shards, folders, decoding, one geometry for all, mixtures, loader."""
