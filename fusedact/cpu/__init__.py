"""What runs on a CPU: lean forms, and pieces that fit into its caches."""
