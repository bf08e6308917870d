"""A recipe is found by its name, which is that of its file."""

import subprocess
import sys

import pytest

from qlass.errors import SettingsError
from qlass.recipes import base, sft
from qlass.recipes.recipe import get_recipe, recipe_names


def test_recipes_are_the_files_of_the_folder() -> None:
    assert {"base", "sft"} <= set(recipe_names())
    assert "recipe" not in recipe_names()
    assert (get_recipe("base"), get_recipe("sft")) == (base.RECIPE, sft.RECIPE)
    assert [get_recipe(name).title for name in ("base", "sft")] == ["Base", "SFT"]


@pytest.mark.parametrize("name", ["ppo", "recipe", "__init__", "", "os.path"])
def test_another_name_is_refused(name: str) -> None:
    with pytest.raises(
        SettingsError, match=r"is no file of qlass/recipes/; allowed: base, sft.*; choose one of these or add"
    ):
        get_recipe(name)


def test_settings_are_read_without_torch() -> None:
    """Programs that do not train read them too."""
    code = """
import sys
from qlass.recipes.recipe import get_recipe, recipe_names
fields = {name: len(get_recipe(name).settings.model_fields) for name in recipe_names()}
print(fields["base"], fields["sft"])
print(sorted({"torch", "transformers", "deepspeed", "peft"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["0 16", "[]"]
