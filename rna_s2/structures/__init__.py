"""From scored boxes to secondary structures: decoding, base-pair probabilities, confidence, comparison with known pairs."""
