"""The frame of a page: one file without scripts and without requests, for screens of any size and for print."""

import html

from fpl_fast.trainer.report.style import STYLE

__all__ = ["document"]


def document(title: str, body: str) -> str:
    """Put a body into a page with the style sheet.

    Args:
        title: Text of the title, to which the program's name is added.
        body: HTML.
    """
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{html.escape(title)} · fpl-fast</title>\n<style>\n{STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )
