"""The site of the documentation: the pages here, and the API by pydoctor below ``api/``."""

import re
from pathlib import Path

from pygments.lexer import RegexLexer
from pygments.token import Comment, Keyword, Text
from sphinx.application import Sphinx

from rkllm_twisted import __version__

ROOT = Path(__file__).parent.parent

project = "rkllm-twisted"
author = "the rkllm-twisted authors"
copyright = f"2026, {author}"
release = version = __version__
extensions = ["myst_parser", "pydoctor.sphinx_ext.build_apidocs"]
exclude_patterns = ["conf.py"]
myst_heading_anchors = 3
html_theme = "alabaster"
html_theme_options = {
    "page_width": "76em",
    "body_max_width": "none",
    "description": "The RKLLM runtime on one Unix socket",
}
html_static_path = ["_static"]
html_css_files = ["site.css"]
highlight_language = "text"

pydoctor_args = [
    f"--project-name=rkllm-twisted {__version__}",
    "--docformat=google",
    "--theme=readthedocs",
    f"--project-base-dir={ROOT}",
    "--html-output={outdir}/api",
    "--privacy=HIDDEN:**._abi_*",
    "--privacy=HIDDEN:**._xllamacpp_abi",
    "--privacy=HIDDEN:**._llama_cpp_python_abi",
    "--intersphinx-cache-path=/dev/null",
    "--warnings-as-errors",
    f"{ROOT / 'rkllm_twisted'}",
]


class TranscriptLexer(RegexLexer):
    """Shows where each line of a conversation begins."""

    tokens = {
        "root": [
            (r"^#.*\n", Comment),
            (r"^[a-z]?(-->|<--|--\||--x|<-\||~~~|\$)", Keyword),
            (r".*\n", Text),
        ]
    }


def outside(app: Sphinx, page: str, source: list[str]) -> None:
    """Offer what a page links to outside of the docs as a file."""
    directory = (ROOT / "docs" / page).parent

    def offered(link: re.Match[str]) -> str:
        isOutside = not (directory / link[2]).resolve().is_relative_to(ROOT / "docs")
        return f"{{download}}`{link[1]} <{link[2]}>`" if isOutside else link[0]

    source[0] = re.sub(r"\[([^\]]+)\]\(((?:\.\./)+[^)#:]+)\)", offered, source[0])


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.add_lexer("transcript", TranscriptLexer)
    app.connect("source-read", outside)
