"""What `import hrnet` offers."""

from __future__ import annotations

import hrnet


def test_every_exported_name_is_there_and_nothing_else_is_offered() -> None:
    assert sorted(hrnet.__all__) == sorted(hrnet._WHERE)
    for name in hrnet.__all__:
        assert getattr(hrnet, name) is not None
    assert dir(hrnet) == sorted(hrnet.__all__)


def test_functions_are_not_hidden_by_modules_of_the_same_name() -> None:
    assert len(hrnet.recipes()) == 45
    assert callable(hrnet.train)
    assert callable(hrnet.evaluate)
    assert not hasattr(hrnet, "no_such_name")
