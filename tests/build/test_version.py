"""The version is defined in one place, ``mige_ext.__version__``."""

from setuptools.config.pyprojecttoml import read_configuration

import mige_ext
from tests.support.process import ROOT


def test_the_distribution_takes_its_version_from_the_package() -> None:
    path = ROOT / "pyproject.toml"
    project = read_configuration(path, expand=False)["project"]
    assert "version" not in project and project["dynamic"] == ["version"]
    assert read_configuration(path)["project"]["version"] == mige_ext.__version__
