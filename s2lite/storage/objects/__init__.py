"""Where objects are kept: the port, and the stores behind it: memory, a directory, buckets."""
