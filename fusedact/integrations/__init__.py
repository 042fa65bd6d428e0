"""Activations of this library in other libraries, a module for each. Import the one you need: it imports its library.

- `fusedact.integrations.transformers`: activations by name in model configurations
- `fusedact.integrations.keras`: models that save and load with activations of this library
- `fusedact.integrations.distributed`: activations of tensor-parallel models
"""
