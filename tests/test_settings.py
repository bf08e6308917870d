import pytest

from qlass.errors import SettingsError
from qlass.settings import first


def test_no_more_items_than_there_are() -> None:
    assert first("abc", None, "recipes.sft.trajectories", "those of the expert") == "abc"
    assert first("abc", 2, "recipes.sft.trajectories", "those of the expert") == "ab"
    with pytest.raises(SettingsError) as caught:
        first("abc", 4, "recipes.sft.trajectories", "those of the expert")
    assert str(caught.value) == (
        "params.yaml: recipes.sft.trajectories: found 4; allowed: 1 to 3 (those of the expert), or null for all of them; "
        "change it"
    )
