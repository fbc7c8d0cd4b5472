from __future__ import annotations

import pytest

from tests.lowest_versions import lowest_versions


def test_each_requirement_becomes_its_lower_bound() -> None:
    requirements = ['torch>=2.11', 'jsonargparse[omegaconf]<5,>=4.53', 'ruff>=0.9; extra == "dev"']
    assert lowest_versions(requirements) == ['torch==2.11', 'jsonargparse==4.53', 'ruff==0.9']


def test_an_extra_of_the_project_itself_is_left_out() -> None:
    assert lowest_versions(['clipward[docs]; extra == "dev"']) == []


@pytest.mark.parametrize('requirement', ['tqdm', 'torch<3', 'nltk; python_version >= "3.11"'])
def test_a_requirement_without_a_lower_bound_is_refused(requirement: str) -> None:
    with pytest.raises(ValueError, match='no lower bound'):
        lowest_versions([requirement])
