"""Where the recipes lie, in a checkout and in an installed wheel, and where data sets are looked for."""

from __future__ import annotations

from pathlib import Path

FASHION_FOLDERS = (Path("/usr/share/datasets/fashion-mnist"), Path("data/fashion-mnist"), Path("data/FashionMNIST/raw"))
"""Where Fashion-MNIST is looked for; the first is that of Debian's package `dataset-fashion-mnist`."""

_PACKAGE = Path(__file__).resolve().parent


def recipe_folder() -> Path:
    """The folder with the YAML recipes that come with fourm.

    In a checkout (also an editable install) it is `cfgs/` beside the package, so that edits take effect; a wheel
    carries the same files as `fourm/_cfgs`.

    Returns:
        An absolute path with the subfolders `pretrain/`, `tokenizers/`, ...
    """
    checkout = _PACKAGE.parent / "cfgs"
    # Beside an installed package lies site-packages, where a stranger's `cfgs` may be: the project file decides.
    if checkout.is_dir() and (_PACKAGE.parent / "pyproject.toml").is_file():
        return checkout
    return _PACKAGE / "_cfgs"
