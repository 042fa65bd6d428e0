"""What backward keeps: policies, and gradients from outputs and bits."""
