"""Streaming fallbacks in torch ops: they never materialise, and run on any device."""
