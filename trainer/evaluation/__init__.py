"""Evaluation, prediction and export with a trained network."""
