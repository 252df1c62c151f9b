"""The domain: sequences, base pairs, bounding boxes. Imports only numpy and the standard library."""
