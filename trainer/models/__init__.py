"""Segmentation networks: a timm encoder with a DeepLabv3+ head."""
