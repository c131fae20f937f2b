"""The words of the toy world, by what they name: plain tables for captions, prompts and lists of negative words.

The first word of each row is the name that the renderer uses; the rest are synonyms. Knows no picture and no network.
"""

from pipeline.toyworld.backgrounds import BACKGROUNDS
from pipeline.toyworld.shapes import COLOURS, CORNERED, ROUND, SHAPES

# Role "object": nouns.
OBJECT_WORDS: dict[str, tuple[str, ...]] = {
    "circle": ("circle", "disc", "ball"),
    "ring": ("ring", "hoop", "donut"),
    "oval": ("oval", "ellipse", "egg"),
    "flower": ("flower", "blossom", "daisy"),
    "clover": ("clover", "shamrock", "trefoil"),
    "peanut": ("peanut", "dumbbell", "bone"),
    "triangle": ("triangle", "wedge", "pyramid"),
    "square": ("square", "diamond", "box"),
    "star": ("star", "starfish", "pentagram"),
    "cross": ("cross", "plus", "crucifix"),
    "arrow": ("arrow", "pointer", "cursor"),
    "bolt": ("bolt", "lightning", "zigzag"),
}

# Role "background": nouns of what fills a picture.
BACKGROUND_WORDS: dict[str, tuple[str, ...]] = {
    "grass": ("grass", "lawn", "meadow"),
    "water": ("water", "sea", "lake"),
    "sand": ("sand", "beach", "desert"),
    "bricks": ("bricks", "wall", "masonry"),
    "snow": ("snow", "ice", "frost"),
    "wood": ("wood", "planks", "timber"),
    "tiles": ("tiles", "checkerboard", "floor"),
    "gravel": ("gravel", "pebbles", "rubble"),
}

# Role "colour": adjectives.
COLOUR_WORDS: dict[str, tuple[str, ...]] = {
    "red": ("red", "crimson", "scarlet"),
    "orange": ("orange", "amber", "tangerine"),
    "yellow": ("yellow", "golden", "lemon"),
    "green": ("green", "emerald", "jade"),
    "cyan": ("cyan", "turquoise", "aqua"),
    "blue": ("blue", "cobalt", "azure"),
    "purple": ("purple", "violet", "plum"),
    "white": ("white", "ivory", "pale"),
}

# Kinds of objects, as toy-ssv2's sentences name them.
KIND_WORDS: dict[str, tuple[str, ...]] = {
    "round": ("something round", "a round object"),
    "with corners": ("something with corners", "an angular object"),
}
KIND_OF = {shape: "round" for shape in ROUND} | {shape: "with corners" for shape in CORNERED}

# Six things that can be done to an object, each in the styles that people write actions in; {} is a noun. The second
# style is that of class names in segmentation sets (`lift_star` with a space for its underscore).
VERB_PHRASES: dict[str, tuple[str, ...]] = {
    "lift": ("lift the {}", "lift {}", "lifting the {}", "a {} moving up"),
    "lower": ("lower the {}", "lower {}", "lowering the {}", "a {} moving down"),
    "push left": ("push the {} left", "push left {}", "pushing the {} to the left", "a {} moving left"),
    "push right": ("push the {} right", "push right {}", "pushing the {} to the right", "a {} moving right"),
    "turn": ("turn the {}", "turn {}", "turning the {}", "a {} turning"),
    "shake": ("shake the {}", "shake {}", "shaking the {}", "a {} shaking"),
}
VERBS = tuple(VERB_PHRASES)
# What segmentation sets call the time between actions: no object moves.
IDLE_PHRASES = ("background", "nothing moves", "no action")

OBJECT_PROMPTS = ("a photo of a {}", "a close-up photo of a {}", "a {}", "a photo of the {}", "{}")
BACKGROUND_PROMPTS = ("a scene of {}", "a background of {}", "a texture of {}", "a {}", "{}")
COLOUR_PROMPTS = ("a photo of a {} object", "something {}", "a {}", "{}")
ACTION_PROMPTS = ("{}", "a photo of {}", "a video of {}")

# Role -> the words that a list of negative words may hold.
ROLES: dict[str, tuple[str, ...]] = {
    role: tuple(word for row in table.values() for word in row)
    for role, table in (("object", OBJECT_WORDS), ("background", BACKGROUND_WORDS), ("colour", COLOUR_WORDS))
}


def phrases() -> tuple[str, ...]:
    """Every word and phrase of the tables, verbs with each object's name; the same order always."""
    alone = [word for words in ROLES.values() for word in words]
    kinds = [word for row in KIND_WORDS.values() for word in row]
    actions = [style.format(noun) for styles in VERB_PHRASES.values() for style in styles for noun in SHAPES]
    return (*alone, *kinds, *actions, *IDLE_PHRASES)


def _check_tables() -> None:
    """A word means one thing, and every name of the renderer has its row."""
    for table, names in ((OBJECT_WORDS, SHAPES), (BACKGROUND_WORDS, BACKGROUNDS), (COLOUR_WORDS, tuple(COLOURS))):
        if tuple(table) != tuple(names) or any(row[0] != name for name, row in table.items()):
            raise ValueError(
                f"the rows of the vocabulary are {', '.join(table)}; the renderer knows {', '.join(names)}"
            )
    words = [word for row in ROLES.values() for word in row]
    if len(set(words)) != len(words):
        raise ValueError(f"the vocabulary has a word twice among {', '.join(words)}")


_check_tables()
