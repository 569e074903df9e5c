"""The site of the documentation: ``make docs`` builds it. The pages are Markdown, as the repository shows them too."""

from rkllm_twisted import __version__

project = "rkllm-twisted"
author = "the authors of rkllm-twisted"
version = release = __version__

extensions = ["myst_parser", "sphinxcontrib.mermaid"]
# Links to a heading, such as methods.md#errors, as the repository's viewer makes them.
myst_heading_anchors = 3
# A diagram is a fence with its name, which the repository's viewer draws too.
myst_fence_as_directive = ["mermaid"]
# Notations of our own and what is not code at all: shown as it is.
highlight_language = "none"
suppress_warnings = ["misc.highlighting_failure"]

html_theme = "alabaster"
html_title = f"rkllm-twisted {release}"
html_theme_options = {"description": "The RKLLM runtime through one Unix socket", "fixed_sidebar": True}
html_show_copyright = False
