"""The nearest-neighbour model: free energies of boxes, and what proposed stems can form, by ViennaRNA."""
