from __future__ import annotations

import subprocess
import sys

import pytest

from fourm.prepare.rooms.classes import CLASSES, OBJECTS, objects_in
from fourm.words import plural


def test_there_are_sixteen_classes_of_which_thirteen_are_objects() -> None:
    assert len(set(CLASSES)) == 16
    assert CLASSES[:3] == ("floor", "wall", "ceiling")
    assert CLASSES[3:] == OBJECTS


@pytest.mark.parametrize("name", OBJECTS)
def test_every_object_is_recovered_in_singular_and_plural(name: str) -> None:
    assert objects_in(f"there is a red {name}.") == {name}
    assert objects_in(f"Two {plural(name).capitalize()}, and nothing else") == {name}


def test_a_class_word_inside_another_word_is_not_a_name() -> None:
    assert objects_in("a tablet on a bedspread, a chairman by the bookshelf, wallpaper") == set()


def test_the_room_itself_is_never_an_object() -> None:
    assert objects_in("a wall, a floor and a ceiling") == set()


def test_the_package_imports_no_heavy_library() -> None:
    code = (
        "import sys, fourm.prepare.rooms; "
        "print([name for name in ('torch', 'trimesh', 'cv2', 'embreex') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
