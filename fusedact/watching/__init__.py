"""Statistics of activations while a model trains."""
