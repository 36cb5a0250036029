"""Data sets: cards, shards, transforms, sampling, loading, checking and drawing synthetic ones."""
