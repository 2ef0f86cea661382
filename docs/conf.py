"""Configuration of the documentation site: `sphinx-build -W docs docs/_build/html`, without network."""

import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# The checkout itself comes first, whatever version is installed.
sys.path[:0] = [str(ROOT), str(ROOT / "docs"), str(ROOT / "docs" / "_ext")]

from colab import repository  # noqa: E402

with (ROOT / "pyproject.toml").open("rb") as file:
    metadata = tomllib.load(file)["project"]
REPOSITORY = repository()  # "" where pyproject.toml has none: pages do not link to it then

project = "jaxscape"
author = metadata["authors"][0]["name"]
copyright = author
release = version = metadata["version"]

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "error_table",
    "public_names",
]
exclude_patterns = ["_build", "**/.ipynb_checkpoints"]
# Links to names of the package must hold. Types in signatures need none: those of other packages and aliases.
nitpicky = True
nitpick_ignore_regex = [(r"py:.*", r"(?!jaxscape\.).*"), (r"py:class", r"jaxscape(\.\w+){2,}")]
default_role = "code"  # `name` in a docstring is code

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4
myst_links_external_new_tab = False

# Each notebook is executed once, and again only after it has changed.
nb_execution_mode = "cache"
nb_execution_cache_path = str(ROOT / "docs" / "_build" / "notebooks")
nb_execution_timeout = 240
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True

autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False

html_theme = "sphinx_book_theme"
html_title = "jaxscape"
html_logo = None
html_static_path = ["_static"]
templates_path = ["_templates"]
html_sidebars = {
    "**": [
        "navbar-logo.html",
        "icon-links.html",
        "search-button-field.html",
        "theme-switcher.html",
        "sbt-sidebar-nav.html",
    ]
}
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "home_page_in_toc": False,
    "show_navbar_depth": 1,
    "use_download_button": False,
    "use_fullscreen_button": False,
    "show_toc_level": 2,
    "navbar_persistent": [],  # the search stands in the side bar
    "path_to_docs": "docs",
    **({"repository_url": REPOSITORY, "use_repository_button": True} if REPOSITORY else {}),
}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
