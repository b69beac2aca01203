"""Data sets, random transforms and the position-addressed sample streams."""
