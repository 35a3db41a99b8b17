"""Checks a checkpoint part by part, and its numbers against golden data of the reference implementation."""
