"""One answer from its request to its end: admission, limits, the two stages, events, clock."""
