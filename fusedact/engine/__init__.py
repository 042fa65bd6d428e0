"""How a function in plain PyTorch becomes kernels: recorded, simplified, written."""
