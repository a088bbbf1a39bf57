"""Finds the YAML plug-ins: pipelines/NAME.yaml (data sets) and tuner_configs/NAME.yaml (searches).

They are folders of data, found by path and not by import, so that they work alike from a bare
checkout, an editable install and a wheel.
"""

from __future__ import annotations

import os
from pathlib import Path

from tfbatch.errors import ConfigurationError, did_you_mean

_PACKAGE = Path(__file__).resolve().parent


class YamlFolder:
    """One kind of YAML plug-in.

    Args:
        folder: The folder's name, "pipelines" or "tuner_configs".
        kind: What one file is called in messages.
        variable: Environment variable with a further folder that is searched first.
    """

    def __init__(self, folder: str, *, kind: str, variable: str):
        self.folder = folder
        self.kind = kind
        self.variable = variable

    def folders(self, extra: Path | None = None) -> list[Path]:
        """The folders that are searched, first one first."""
        asked = [extra, os.environ.get(self.variable)]
        folders = [Path(folder).expanduser() for folder in asked if folder]
        if (_PACKAGE / self.folder).is_dir():  # a wheel
            folders.append(_PACKAGE / self.folder)
        # Only beside our own setup.cfg: site-packages/pipelines could be anybody's.
        if (_PACKAGE.parent / "setup.cfg").is_file():
            folders.append(_PACKAGE.parent / self.folder)
        return folders

    def names(self, extra: Path | None = None) -> list[str]:
        """All names that can be asked for, sorted."""
        return sorted({p.stem for f in self.folders(extra) for p in f.glob("*.yaml")})

    def find(self, name: str, extra: Path | None = None) -> Path:
        """Returns the file of a plug-in; a path that ends in .yaml is taken as it is.

        Raises:
            ConfigurationError: There is no such file; lists the names and the folders searched.
        """
        if name.endswith((".yaml", ".yml")):
            if not _is_file(Path(name)):
                raise ConfigurationError(f"No {self.kind} file `{name}`.")
            return Path(name)
        for folder in self.folders(extra):
            if _is_file(folder / f"{name}.yaml"):
                return folder / f"{name}.yaml"
        names = self.names(extra)
        raise ConfigurationError(
            f"Unknown {self.kind} `{name}`.{did_you_mean(name, names)} "
            f"Available: {', '.join(names) or 'none'}. "
            f"Searched: {', '.join(map(str, self.folders(extra)))}. "
            f"Add {name}.yaml to one of them, or set {self.variable} to a folder of your own."
        )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long
        return False
