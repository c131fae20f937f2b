"""GASM-CAST: the fusion head for action recognition on cached semantic and motion tokens."""
