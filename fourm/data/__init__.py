"""Aligned modalities on disk, in order, and in batches: shards, folders, decoding, one geometry for all, mixtures, loader."""
