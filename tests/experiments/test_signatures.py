from __future__ import annotations

import inspect
from pathlib import Path

import lightning as L
import pytest

from callbacks.repartition import SafeRiskyRepartition
from datamodules.toy_pairs import ToyPairs
from experiments.signatures import ClassIndex, method_parameters, union
from lightning_modules.safeclip import SafeCLIP

ROOT = Path(__file__).parents[2]
SOURCE = """
class Base:
    def __init__(self, rate: float, *, seed: int = 0) -> None: ...

class Keeps(Base):
    size = 3

class Extends(module.Base):
    def __init__(self, rate: 'str', size: dict[str, Base] | None = None, **kwargs) -> None: ...

class Gives(Base):
    def __init__(self, size: int, **kwargs) -> None:
        super().__init__(0.5, **kwargs)

class Foreign(elsewhere.Thing):
    def __init__(self, size: int, **kwargs) -> None: ...

class Silent(elsewhere.Thing):
    pass

class Interface(ABC):
    pass

@dataclass(frozen=True)
class Record:
    name: str
    count: int = 0
"""


@pytest.fixture
def index(tmp_path: Path) -> ClassIndex:
    (tmp_path / 'classes.py').write_text(SOURCE)
    return ClassIndex.of([tmp_path])


class TestClassIndex:
    def test_a_class_without_a_constructor_has_that_of_its_base(self, index: ClassIndex) -> None:
        assert index.parameters('Keeps') == index.parameters('Base') == {'rate': 'float', 'seed': 'int'}

    def test_keyword_arguments_are_those_of_the_base(self, index: ClassIndex) -> None:
        expected = {'rate': "'str'", 'seed': 'int', 'size': 'dict[str, Base] | None'}
        assert index.parameters('Extends') == expected

    def test_what_a_class_gives_to_its_base_is_no_argument(self, index: ClassIndex) -> None:
        assert index.parameters('Gives') == {'size': 'int', 'seed': 'int'}

    @pytest.mark.parametrize('name', ['Foreign', 'Silent', 'Unknown'])
    def test_what_another_package_adds_is_unknown(self, index: ClassIndex, name: str) -> None:
        assert index.parameters(name) is None

    def test_an_interface_has_no_arguments(self, index: ClassIndex) -> None:
        assert index.parameters('Interface') == {}

    def test_the_fields_of_a_dataclass_are_its_arguments(self, index: ClassIndex) -> None:
        assert index.parameters('Record') == {'name': 'str', 'count': 'int'}

    def test_a_family_is_a_class_and_all_that_derive_from_it(self, index: ClassIndex) -> None:
        assert set(index.family('Base')) == {'Base', 'Keeps', 'Extends', 'Gives'}

    @pytest.mark.parametrize('kind', [SafeCLIP, ToyPairs, SafeRiskyRepartition])
    def test_agrees_with_python(self, kind: type) -> None:
        index = ClassIndex.of(ROOT / package for package in ('lightning_modules', 'datamodules', 'callbacks'))
        of_mro = [inspect.signature(base.__init__).parameters for base in kind.__mro__ if base in project_classes(kind)]
        expected = {name for parameters in of_mro for name in parameters} - {'self', 'kwargs'}
        assert set(index.parameters(kind.__name__) or {}) == expected


def project_classes(kind: type) -> list[type]:
    """Classes of this project that one derives from, itself included."""
    packages = ('lightning_modules', 'datamodules', 'callbacks')
    return [base for base in kind.__mro__ if base.__module__.split('.')[0] in packages and '__init__' in vars(base)]


class TestMethodParameters:
    def test_agree_with_python(self) -> None:
        file = Path(str(inspect.getsourcefile(L.Trainer)))
        expected = set(inspect.signature(L.Trainer.__init__).parameters) - {'self'}
        assert set(method_parameters(file, 'Trainer', '__init__') or {}) == expected

    def test_are_unknown_where_the_file_or_the_method_is_missing(self, tmp_path: Path) -> None:
        (tmp_path / 'classes.py').write_text(SOURCE)
        assert method_parameters(tmp_path / 'missing.py', 'Base', '__init__') is None
        assert method_parameters(tmp_path / 'classes.py', 'Base', 'fit') is None


class TestUnion:
    def test_has_the_arguments_of_all(self) -> None:
        assert union([{'a': 'int'}, {'a': 'str', 'b': ''}]) == {'a': 'int str', 'b': ''}

    def test_is_unknown_if_one_is(self) -> None:
        assert union([{'a': 'int'}, None]) is None
