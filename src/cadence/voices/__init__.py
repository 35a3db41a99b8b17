"""Voices that users bring: recordings checked, and kept on disk for all processes to share."""
