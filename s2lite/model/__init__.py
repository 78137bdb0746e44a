"""Values and their rules: names, positions, records, reads, configuration, limits, errors."""
