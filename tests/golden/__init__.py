"""Rendered plans as text, for people to review: what runs for a few specs, container by container."""
