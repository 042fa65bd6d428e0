"""Whole models: modules and calls replaced, in place, with a report."""
