"""What every layout's reader shares: its error, and which names may become file names. Knows no layout."""


class DatasetError(ValueError):
    """A data set that cannot be used as it lies on disk; the message names the file, what was found and the remedy."""


def check_file_name(name: str, origin: str, what: str = "video's name") -> str:
    """Returns `name` if it can only ever mean a file directly inside the videos' folder.

    Args:
        name: a sample's id with its extension, as an annotation file gives it.
        origin: the annotation file, named in the error, as is what of it the name is.

    Raises:
        DatasetError: the name holds a slash, a backslash or an unprintable character (NUL, newline, a lone surrogate),
            begins with a dot (`..`, an empty id, a hidden file), has white space around it, or is too long for a file
            system.
    """
    if not name.isprintable():
        wrong = "holds a character that cannot be printed"
    elif "/" in name or "\\" in name:
        wrong = "leads to another folder"
    elif name.startswith("."):
        wrong = "is empty or begins with a dot"
    elif name != name.strip():
        wrong = "has a space around it"
    elif len(name.encode()) > 255:
        wrong = "is longer than the 255 bytes a file system allows"
    else:
        return name
    raise DatasetError(f"{origin}: the {what} {name!r} is refused because it {wrong}; correct or remove that id")
