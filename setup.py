"The package as settings.ini describes it: that file is the only place where names, versions and requirements stand."
import re
from configparser import ConfigParser
from pathlib import Path

from setuptools import setup

here = Path(__file__).parent
ini = ConfigParser(delimiters=["="], interpolation=None)
ini.read(here / "settings.ini", encoding="utf-8")
cfg = ini["DEFAULT"]

# README.md links and shows files by relative paths, which work on GitHub, in any fork and offline; on PyPI only absolute ones do.
readme = (here / "README.md").read_text(encoding="utf-8")
for start, folder in ((r"!\[[^]]*\]\(", "raw"), (r"(?<!!)\[[^]]*\]\(", "blob")):  # pictures, then links
    readme = re.sub(rf"({start})(?![a-z]+:|#)", rf"\g<1>{cfg['git_url']}/{folder}/{cfg['branch']}/", readme)

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=readme,
    long_description_content_type="text/markdown",
    author=cfg["author"],
    author_email=cfg["author_email"],
    url=cfg["git_url"],
    license="Apache-2.0",
    keywords=cfg["keywords"].split(),
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    packages=[cfg["lib_path"]],
    package_data={cfg["lib_path"]: ["assets/**/*"]},
    python_requires=">=" + cfg["min_python"],
    install_requires=cfg["requirements"].split(),
    extras_require={name: cfg[f"{name}_requirements"].split() for name in ("dev", "app", "speed")},
    entry_points={"console_scripts": cfg["console_scripts"].split("\n")},
    zip_safe=False,
)
