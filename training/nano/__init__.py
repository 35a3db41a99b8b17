"""The recipe of Cadence Nano, the small checkpoint that ships inside the package."""
