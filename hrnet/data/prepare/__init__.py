"""One converter per data set: from the official download to checked shards."""
