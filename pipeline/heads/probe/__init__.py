"""Probes of frozen features: how much a linear layer, a small transformer, or the nearest neighbours read from them."""
