"""Studies: grids of runs that are trained to the end, whatever happens meanwhile, and their tables."""
