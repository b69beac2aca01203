"""Additions to the pages of the site: pictures, and the files of the repository that pages link to."""

import json
import re
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PREFIX = "repository"
OUTSIDE = re.compile(r"\]\((?:\.\./)+(?P<path>(?!reference|adr)[\w./-]+?)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pictures, and copies of the files outside docs/ that pages link to."""
    sys.path.insert(0, str(Path(__file__).parent))
    from pictures import pictures

    for name, content in pictures().items():
        files.append(File.generated(config, f"pictures/{name}", content=content))
    for notebook in Path(config.docs_dir).glob("*.ipynb"):
        page = f"{notebook.stem}-notebook.md"
        files.append(File.generated(config, page, content=_notebook(notebook.read_text(encoding="utf-8"))))
    pages = (file.content_string for file in list(files) if file.is_documentation_page())
    for path in sorted({match["path"] for page in pages for match in OUTSIDE.finditer(page)}):
        if (ROOT / path).is_file():
            files.append(File.generated(config, f"{PREFIX}/{_copied(path)}", abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links out of docs/ at the copies; what is no file there is named, not linked."""
    up = "../" * page.file.src_uri.count("/")

    def replace(match: re.Match[str]) -> str:
        return f"]({up}{PREFIX}/{_copied(match['path'])})" if (ROOT / match["path"]).is_file() else "]"

    return OUTSIDE.sub(replace, markdown)


def _notebook(text: str) -> str:
    """The cells of a notebook as Markdown."""
    cells = ((cell["cell_type"], "".join(cell["source"])) for cell in json.loads(text)["cells"])
    return "\n\n".join(source if kind == "markdown" else f"```python\n{source}\n```" for kind, source in cells)


def _copied(path: str) -> str:
    """Under another suffix: a copied page would be built, and its own links with it."""
    return f"{path}.txt" if path.endswith(".md") else path
