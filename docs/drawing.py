"""SVG for the pictures of the pages: small, no dependencies, light and dark."""

from xml.sax.saxutils import escape

# An SVG in an <img> takes the colour scheme of the page that shows it.
STYLE = """\
text { font-family: system-ui, sans-serif; font-size: 14px; fill: #1f2328; }
.title { font-weight: 600; }
.note { fill: #59636e; font-size: 13px; }
.middle { text-anchor: middle; }
.cell { fill: #eef1f4; stroke: #7d8590; }
.key { fill: #a9cdf5; stroke: #1f5fa8; }
.query { fill: #f0a35e; stroke: #8a3d00; stroke-width: 2; }
.line { fill: none; stroke: #59636e; stroke-width: 1.5; }
.frame { fill: none; stroke: #7d8590; stroke-width: 0.5; }
.head { fill: #59636e; }
@media (prefers-color-scheme: dark) {
text { fill: #e6e8eb; }
.note { fill: #a8b0ba; }
.cell { fill: #23272e; stroke: #7d8590; }
.key { fill: #2a5c94; stroke: #8fc1f7; }
.query { fill: #c96f1e; stroke: #ffd2a6; }
.line { stroke: #a8b0ba; }
.head { fill: #a8b0ba; }
}
"""


class Drawing:
    """Collects shapes; `str` gives the file."""

    def __init__(self, title, width, height):
        self.title, self.width, self.height = title, width, height
        self.shapes = []

    def text(self, x, y, text, css="", upwards=False):
        turn = f' transform="rotate(-90 {_number(x)} {_number(y)})"' if upwards else ""
        place = f"{_at(x=x, y=y)}{turn}{_css(css)}"
        self.shapes.append(f"<text{place}>{escape(text)}</text>")

    def rectangle(self, x, y, width, height, css):
        place = _at(x=x, y=y, width=width, height=height, rx=2)
        self.shapes.append(f"<rect{place}{_css(css)}/>")

    def polygon(self, points, css):
        corners = " ".join(f"{_number(x)},{_number(y)}" for x, y in points)
        self.shapes.append(f'<polygon points="{corners}"{_css(css)}/>')

    def circle(self, x, y, radius, css):
        self.shapes.append(f"<circle{_at(cx=x, cy=y, r=radius)}{_css(css)}/>")

    def line(self, x1, y1, x2, y2, css="line"):
        self.shapes.append(f"<line{_at(x1=x1, y1=y1, x2=x2, y2=y2)}{_css(css)}/>")

    def arrow(self, x1, y1, x2, y2):
        """An arrow to the right, or down."""
        self.line(x1, y1, x2, y2)
        if y1 == y2:
            points = (x2, y2), (x2 - 8, y2 - 4), (x2 - 8, y2 + 4)
        else:
            points = (x2, y2), (x2 - 4, y2 - 8), (x2 + 4, y2 - 8)
        self.polygon(points, "head")

    def __str__(self):
        # Larger than drawn where there is room; phones show it as it is drawn.
        width, height = (_number(1.25 * n) for n in (self.width, self.height))
        return "\n".join(
            (
                f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" '
                f'height="{height}" viewBox="0 0 {self.width} {self.height}" '
                'role="img">',
                f"<title>{escape(self.title)}</title>",
                f"<style>\n{STYLE}</style>",
                *self.shapes,
                "</svg>\n",
            )
        )


def _at(**numbers):
    return "".join(f' {name}="{_number(value)}"' for name, value in numbers.items())


def _number(value):
    return f"{value:.1f}".removesuffix(".0")


def _css(names):
    return f' class="{names}"' if names else ""
