"""Background actors: what happens to basins and streams when nobody asks for it."""
