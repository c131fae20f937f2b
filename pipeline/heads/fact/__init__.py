"""FACT: the head for temporal action segmentation of long videos on cached frame features; FACT_CLIP beside it."""
