import pytest

from experiments import versions


def test_name_what_results_depend_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, 'PACKAGES', ('torch', 'no_such_package'))
    torch, missing, python = versions.describe_versions().splitlines()
    assert torch.startswith('torch 2.')
    assert missing == 'no_such_package not installed'
    assert python.startswith('python 3.')
