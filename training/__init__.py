"""Recipes that train checkpoints; not part of the installed package."""
