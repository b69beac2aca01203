"""The trainer: methods, networks, data and the command line around the fused losses."""
