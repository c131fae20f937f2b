"""NegAlign: zero-shot out-of-distribution detection with a frozen CLIP, from cached vectors; it trains nothing."""
