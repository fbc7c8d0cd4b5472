from experiments.near_names import find_similar, near_names


def test_are_found_whatever_their_case() -> None:
    assert near_names('safeclip', ['SafeCLIP', 'ToyPairs']) == ['SafeCLIP']


def test_all_choices_are_listed_if_none_is_near() -> None:
    assert find_similar('fitt', ['fit', 'test']) == 'did you mean fit?'
    assert find_similar('xyz', ['fit', 'test']) == 'choose from fit, test.'
