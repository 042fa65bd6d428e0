"""Piecewise-linear functions: tables, fixed and learned, and what can be done with them."""
