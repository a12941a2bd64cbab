"""Makes Markdown of those sections of docstrings that Griffe does not know.

`mkdocs.yml` names this extension. Griffe itself reads "Args" and "Raises".
"""

import re

import griffe

SECTION = re.compile(r"^(Call arguments|Returns|Example|Reference):\n", re.MULTILINE)
# A section ends where the next one starts.
ANY_SECTION = re.compile(r"^(?=[A-Z][a-z]+(?: [a-z]+)?:\n)", re.MULTILINE)
ARGUMENT = re.compile(r"^(\w+): ", re.MULTILINE)
# Public names that docstrings speak of; the strict build fails if one is gone.
NAME = re.compile(
    "`(DropPath|PositionalEncoder|TubeletEmbedding|ViViTBackbone|ViViTClassifier"
    "|ViViTEncoderBlock|resize_position_table)`"
)


class Sections(griffe.Extension):
    """Rewrites docstrings before they are parsed."""

    def on_object(self, *, obj, **kwargs):
        if obj.docstring:
            obj.docstring.value = to_markdown(obj.docstring.value)


def to_markdown(docstring):
    """Returns a docstring whose unknown sections are Markdown, its names links."""
    docstring = NAME.sub(r"[`\1`][keras_vivit.\1]", docstring)
    return "".join(_section(part) for part in ANY_SECTION.split(docstring))


def _section(text):
    match = SECTION.match(text)
    if match is None:
        return text
    title, body = match[1], text[match.end() :].rstrip()
    if title == "Example":
        body = body.replace("  # doctest: +SKIP", "")
        return f"**Example:**\n\n```pycon\n{body}\n```\n\n"
    body = re.sub("^ {4}", "", body, flags=re.MULTILINE)
    if title == "Call arguments":
        items = ARGUMENT.sub("- **`\\1`** \N{EN DASH} ", body)
        return f"**Call arguments:**\n\n{_indent_items(items)}\n\n"
    return f"**{title}:** {body}\n\n"


def _indent_items(items):
    lines = (line.strip() for line in items.splitlines())
    return "\n".join(x if x.startswith("- ") else f"  {x}" for x in lines)
