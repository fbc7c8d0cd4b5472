from __future__ import annotations

from collections import Counter

from datamodules.text.prompts import fill_templates, imagenet_classes, imagenet_templates


class TestPrompts:
    def test_classes_and_templates_are_those_of_clip_s_authors(self) -> None:
        templates = imagenet_templates()
        assert len(templates) == len(set(templates)) == 80
        assert fill_templates('banana', templates)[0] == 'a bad photo of a banana.'
        assert imagenet_classes().index('banana') == 954
        twice = {name for name, count in Counter(imagenet_classes()).items() if count > 1}
        assert twice == {'missile', 'sunglasses'}

    def test_a_name_may_contain_braces(self) -> None:
        assert fill_templates('set {}', ['a {}, the {}']) == ['a set {}, the set {}']
