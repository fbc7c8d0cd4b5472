from __future__ import annotations

import pytest

import datamodules.attacks.badnet
import datamodules.attacks.wanet  # noqa: F401
from experiments.parser_message import parser_message

WRONG_TYPE = """Parser key "trainer.max_epochs":
  Does not validate against any of the Union subtypes
  Subtypes: [<class 'int'>, <class 'NoneType'>]
  Errors:
    - Expected a <class 'int'>
    - Expected a <class 'NoneType'>
  Given value type: <class 'str'>
  Given value: x"""
WRONG_OPTION = """Parser key "callbacks.repartition":
  Does not validate against any of the Union subtypes
  Errors:
    - Problem with given class_path 'callbacks.repartition.SafeRiskyRepartition':
        Option 'treshold' is not accepted
    - Expected a <class 'NoneType'>
  Given value: NestedArg(key='treshold', val='0.9')"""
WRONG_CLASS = """Parser key "model":

  - Expected a path but RoClip either not accessible or invalid
  - Does not validate against any of the Union subtypes
  Errors:
    - Expected a dot import path string: RoClip
    - Expected a <class 'NoneType'>
  Given value: RoClip"""

STRANGE_CLASS = """Parser key "data":
  - Expected a path but mine.Stream either not accessible or invalid
  - Does not validate against any of the Union subtypes
  Errors:
    - Import path does not correspond to a subclass of PairsDataModule
    - Expected a <class 'NoneType'>
  Given value type: <class 'str'>
  Given value: mine.Stream"""

MISSING_ARGUMENT = """Parser key "data":
  Does not validate against any of the Union subtypes
  Errors:
    - Problem with given class_path 'datamodules.toy_pairs.ToyPairs':
        Parser key "filters":
          Errors:
            - Problem with given class_path 'datamodules.rows.filters.KeyList':
                the following arguments are required: file
          Given value: {'a': Namespace(class_path='datamodules.rows.filters.KeyList')}
    - Expected a <class 'NoneType'>"""
NO_CLASS = """Parser key "callbacks.repartition":
  Does not validate against any of the Union subtypes
  Errors:
    - Problem with given class_path 'callbacks.SafeRiskyRepartition':
        Parser key "score":
          Errors:
            - Expected an instantiatable class, but callbacks.scores.Score is abstract
            - Expected a <class 'NoneType'>
          Given value: NestedArg(key='views', val='3')
    - Expected a <class 'NoneType'>
  Given value: NestedArg(key='score.views', val='3')"""
NO_CLASS_OF_A_KEY = """Parser key "data":
  Errors:
    - Problem with given class_path 'datamodules.toy_pairs.ToyPairs':
        Parser key "filters":
          Errors:
            - Unexpected import path format: 0.5
            - Expected a <class 'NoneType'>
          Given value: 0.5
          Given value: NestedArg(key='a.share', val='0.5')
  Given value: NestedArg(key='filters.a.share', val='0.5')"""
NULL_IN_A_LIST = """Parser key "data.image_views":
  Errors:
    - Not a valid subclass of ImageViews
      Subclass types expect one of:
      - a class path (str)
    - Not a valid subclass of ImageViews. Got value: None
    - Expected a <class 'NoneType'>
  Given value: [None, 'SimCLRViews']"""
ADDED = """Parser key "data":
  Errors:
    - Problem with given class_path 'datamodules.toy_pairs.ToyPairs':
        Option 'filters+' is not accepted
  Given value: NestedArg(key='filters+', val='RandomSubset')"""
UNBALANCED = """Parser key "data":
  Errors:
    - Problem with given class_path 'datamodules.toy_pairs.ToyPairs':
        Parser key "attacks":
          Errors:
            - Expected a dot import path string: {class_path:
              Given value: {class_path:
          Given value: NestedArg(key='a', val='{class_path:')
  Given value: NestedArg(key='attacks.a', val='{class_path:')"""
NUMBER = """Parser key "model":
  Errors:
    - Not a valid subclass of CLIP
      Subclass types expect one of:
      - a class path (str)
    - Expected a <class 'NoneType'>
  Given value: 3"""
NEAR_CLASS = """Parser key "data":
  Errors:
    - Problem with given class_path 'datamodules.toy_pairs.ToyPairs':
        Parser key "attacks":
          Errors:
              Subtypes: [<class 'datamodules.attacks.base.Poisoning'>, <class 'NoneType'>]
              Errors:
                - Expected a dot import path string: BadNett
              Given value: BadNett
  Given value: NestedArg(key='attacks.a', val='BadNett')"""
FIRST_THE_CLASS = 'is an argument of no class yet: name the class first, as in'


NO_PACKAGE = """Does not validate against any of the Union subtypes
Errors:
  - Expected a <class 'list'>
  - Problem with given class_path 'lightning.pytorch.callbacks.RichModelSummary':
      `RichModelSummary` requires `rich` to be installed. Install it by running `pip install -U rich`.
Given value: Namespace(class_path='lightning.pytorch.callbacks.RichModelSummary')"""
NO_STYLES = """Parser key "trainer.callbacks":
  - Problem with given class_path 'lightning.pytorch.callbacks.RichProgressBar':
      Parser key "theme":
        Parser key "progress_bar":
          Expected a Union[str, Unvalidated<Style>]. Got value: null"""
NO_SEED = """Parser key "data":
  - Problem with given class_path 'datamodules.toy_pairs.ToyPairs':
      Parser key "seed":
        Expected a <class 'int'>. Got value: False"""


def test_a_package_that_a_class_needs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('experiments.parser_message.find_spec', lambda name: None)
    for report, name in ((NO_PACKAGE, 'RichModelSummary'), (NO_STYLES, 'RichProgressBar')):
        assert parser_message(report) == f'{name} needs the package rich: pip install rich.'


def test_a_seed_of_all_that_is_none_is_not_blamed_on_the_data() -> None:
    assert parser_message(NO_SEED).startswith('seed_everything=false leaves the data without a seed: give a number')


class TestParserMessage:
    @pytest.mark.parametrize(
        ('report', 'sentence'),
        [
            (WRONG_TYPE, 'trainer.max_epochs: expected int, got x.'),
            (WRONG_OPTION, "callbacks.repartition: Option 'treshold' is not accepted by SafeRiskyRepartition."),
            (STRANGE_CLASS, 'data: mine.Stream is not the name of a class that fits there.'),
            (WRONG_CLASS, 'model: RoClip is not the name of a class that fits there.'),
            (MISSING_ARGUMENT, 'data.filters: KeyList needs file.'),
            (NO_CLASS, f'callbacks.repartition.score: views {FIRST_THE_CLASS} --callbacks.repartition.score=CLASS.'),
            (NO_CLASS_OF_A_KEY, f'data.filters.a: share {FIRST_THE_CLASS} --data.filters.a=CLASS.'),
            (NULL_IN_A_LIST, 'data.image_views: expected the name of a class of ImageViews, got None.'),
            ('Parser key "config": File does not exist: a.yaml', 'config: File does not exist: a.yaml'),
            ('unrecognized arguments: --foo', 'unrecognized arguments: --foo'),
            (
                'unrecognized arguments: a.yaml',
                'unrecognized argument a.yaml: options have the form --name=value, files --config FILE.',
            ),
            (
                'the following arguments are required: fit.data, fit.model',
                'data and model must be given, in a file or as an option: --config safeclip_pairs.yaml '
                'or --data=VALUE.',
            ),
            (
                ADDED,
                'data.filters: += adds to a list, and this is none: set it with =, or one entry of a mapping with '
                '.NAME=.',
            ),
            (
                UNBALANCED,
                "data.attacks.a: {class_path: cannot be read: expected the node content, but found '<stream end>'.",
            ),
            (NUMBER, 'model: expected the name of a class of CLIP, got 3.'),
            (
                NEAR_CLASS,
                'data.attacks.a: BadNett is not the name of a class that fits there: did you mean BadNet or WaNet?',
            ),
        ],
    )
    def test_says_what_is_wrong_and_where(self, report: str, sentence: str) -> None:
        assert parser_message(report) == sentence
