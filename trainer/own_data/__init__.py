"""Description of a folder of images and masks that nobody has described: what ``fpl-fast init`` finds and chooses."""
