"""Which layers, kernels and classifier a network has, found by watching one image pass."""
