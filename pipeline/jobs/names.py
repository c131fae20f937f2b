"""Regular expressions of the names that a rule's wildcards may have. Knows no plan."""


def one_of(names):
    """A regular expression of these names, of nothing when there are none; what stands beside it is of every name."""
    return f"(?:{'|'.join(names)})" if names else "(?!)"


def unless(places):
    """A regular expression of nothing, where none of these follows in a path."""
    return f"(?!(?:{'|'.join('/'.join(place) for place in places)})/)" if places else ""


def before(places):
    """A regular expression of heads, where one of these places begins."""
    heads = one_of(dict.fromkeys(place[0] for place in places))
    return f"(?=(?:{'|'.join('/'.join(place) for place in places)})/){heads}" if places else one_of([])
