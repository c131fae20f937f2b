"""The toy world's words: every name of the renderer has its words."""

from pipeline.toyworld.vocabulary import ROLES, VERB_PHRASES, phrases


def test_there_are_many_words_of_each_role_and_none_has_two_roles():
    assert {role: len(words) for role, words in ROLES.items()} == {"object": 36, "background": 24, "colour": 24}
    assert len({word for words in ROLES.values() for word in words}) == 84


def test_verbs_and_objects_make_sentences_in_several_styles():
    assert len(VERB_PHRASES) == 6
    assert {"lift the star", "a star moving up", "lift star", "push the bolt left"} <= set(phrases())
