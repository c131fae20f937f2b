"""What cannot be explained. Knows nothing of how it is."""


class ExplanationError(ValueError):
    """A run that cannot be explained as asked; the message gives the remedy."""


class NotOffered(ExplanationError):
    """What a head has not, or its samples are too few for, so that a part of its explanation is left out."""
