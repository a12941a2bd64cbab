"""How every campaign ends: its figures on the screen, and in a file for the page."""

import json


def write(result, path=None):
    text = json.dumps(result, indent=1)
    print(text)
    if path:
        path.write_text(text + "\n")
