"""Softmax and its family."""
