"""Two-stage RNA secondary-structure prediction."""
