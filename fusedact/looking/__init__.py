"""What shows, measures and tests activations, and the command line."""
