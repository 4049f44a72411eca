"Sphinx's settings for `python .ci/docs`: nothing is fetched, nothing is run."

import re
from configparser import ConfigParser
from pathlib import Path

from fastcore.docments import docments

ini = ConfigParser(delimiters=["="], interpolation=None)
ini.read(Path(__file__).resolve().parents[2] / "settings.ini", encoding="utf-8")
cfg = ini["DEFAULT"]

project, author, release = cfg["title"], cfg["author"], cfg["version"]
copyright = cfg["copyright"]  # noqa: A001 (Sphinx's name)
extensions = ["myst_nb", "sphinx.ext.autodoc"]
nb_execution_mode = "off"
nb_merge_streams = True
myst_heading_anchors = 3
suppress_warnings = ["myst.header", "mystnb.unknown_mime_type"]

html_theme = "furo"
html_title = project
html_static_path = ["static"]
html_css_files = ["style.css"]
html_copy_source = html_show_sourcelink = html_show_sphinx = False
html_theme_options = {"source_repository": cfg["git_url"], "footer_icons": []}

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
default_role = "py:obj"
python_maximum_signature_line_length = 88
add_module_names = False


def as_rst(text: str) -> str:
    "A docstring in the house's form, plain text with `code`, as reStructuredText."
    text = re.sub(r"(?<![\w`])(--[\w-]+)", r"`\1`", text)  # a flag is code
    parts = re.split(r"(`[^`]+`)", text)
    plain = [re.sub(r"([\\*|_])", r"\\\1", part) for part in parts[::2]]
    parts[::2] = [re.sub(r"^(?=\w)", r"\\ ", part) for part in plain]  # "`Frame`s": code ends
    return "".join(parts).removeprefix("\\ ")


def add_parameters(app, what, name, obj, options, lines: list[str]) -> None:
    "Comments beside parameters and fields become their descriptions."
    lines[:] = [as_rst(line) for line in lines]
    if what not in ("function", "method", "class"):
        return
    try:
        comments = docments(obj, returns=True)
    except (TypeError, ValueError, OSError, SyntaxError):  # no Python source
        return
    rows = [(k, as_rst(" ".join(v.split()))) for k, v in comments.items() if isinstance(v, str)]
    fields = [
        f":returns: {text}" if key == "return" else f":param {key}: {text}" for key, text in rows
    ]
    if fields:
        lines += ["", *fields, ""]


def plain_types(app, what, name, obj, options, signature, returns):
    "A type without what the command line needs to know of it."
    plain = re.sub(r"Annotated\[([^,]+), _ArgConfig\(.*?\)\]", r"\1", signature or "")
    return (plain, returns) if signature else None


def only_ours(app, what, name, obj, skip, options):
    "True for what a class inherits from another package, which documents it itself."
    code = getattr(obj, "fget", None) or obj  # of a property
    module = getattr(code, "__module__", None) or ("builtins" if callable(code) else "rvos_nb")
    return True if what == "class" and not str(module).startswith("rvos_nb") else None


def setup(app) -> None:
    app.connect("autodoc-skip-member", only_ours)
    app.connect("autodoc-process-signature", plain_types)
    app.connect("autodoc-process-docstring", add_parameters)
