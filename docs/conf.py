"""The documents as a site: plain Markdown and docstrings, built and read without a network."""

import sys
from pathlib import Path

import circuitprune

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "circuitprune"
release = version = circuitprune.__version__
author = copyright = "the circuitprune authors"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "docstrings",
    "mathml",
    "offline",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"circuitprune {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
html_math_renderer = "mathml"

suppress_warnings = ["ref.python"]  # fields of one name in several records
default_role = "literal"  # one backtick in a docstring means code, as in Markdown
napoleon_custom_sections = [("Source", "notes_style")]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 90
