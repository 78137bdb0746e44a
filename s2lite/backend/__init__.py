"""The actors that own streams, catalog and log, and the one object that handlers call."""
