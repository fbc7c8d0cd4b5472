from __future__ import annotations

from collections import Counter

import pytest

from datamodules.text.prompts import (
    check_class_names,
    check_templates,
    fill_templates,
    imagenet_classes,
    imagenet_templates,
)
from datamodules.usage_error import UsageError


class TestPrompts:
    def test_classes_and_templates_are_those_of_clip_s_authors(self) -> None:
        templates = imagenet_templates()
        assert len(templates) == len(set(templates)) == 80
        assert fill_templates('banana', templates)[0] == 'a bad photo of a banana.'
        assert imagenet_classes().index('banana') == 954
        twice = {name for name, count in Counter(imagenet_classes()).items() if count > 1}
        assert twice == {'missile', 'sunglasses'}

    def test_clip_benchmark_s_place_for_the_class_is_read(self) -> None:
        templates = check_templates(['a {c}', 'the {}, a {}', '100 %s of a {}'], 'data.templates')
        assert templates == ('a {}', 'the {}, a {}', '100 %s of a {}')

    @pytest.mark.parametrize(
        'template', ['a photo', '', 'a {0}', 'a {name}', 'a %s', 'a {{}}', 'a {} and {0}', 'a { }', 'a {C}', 'a }{']
    )
    def test_a_template_without_a_place_or_with_other_braces_is_refused(self, template: str) -> None:
        with pytest.raises(UsageError, match=r"^data\.templates has '.*': write {} where the name of a class goes"):
            check_templates(['a {}', template], 'data.templates')

    def test_no_template_is_refused(self) -> None:
        with pytest.raises(UsageError, match=r'data\.templates is empty'):
            check_templates([], 'data.templates')

    @pytest.mark.parametrize(
        'names', [['dog', 'Dog'], ['dog', ' dog'], ['dog', ''], ['hot  dog', 'hot dog'], ['\u00e9', 'e\u0301']]
    )
    def test_names_that_prompts_cannot_tell_apart_are_refused(self, names: list[str]) -> None:
        with pytest.raises(UsageError, match=r'^data\.class_names has (both|the name)'):
            check_class_names(names)
        check_class_names(imagenet_classes())

    def test_a_name_may_contain_braces(self) -> None:
        assert fill_templates('set {}', ['a {}, the {}']) == ['a set {}, the set {}']
