"""A run on disk: its folder and lock, state and checkpoints, log, clock, and how it is interrupted and continued."""
