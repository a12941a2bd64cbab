"""A Hugging Face Hub on this machine, for tests of downloads."""

import http.server
import json
import re
import threading
from functools import partial
from pathlib import Path

import pytest


class Hub(http.server.SimpleHTTPRequestHandler):
    """The part of the Hugging Face Hub that downloads need, for files in a folder."""

    def do_GET(self):
        match = re.match("/api/models/(.*?)/(tree|revision)/", self.path)
        if match is None:
            return super().do_GET()
        files = sorted(Path(self.directory, match[1]).iterdir())
        answer = {
            "tree": [
                {"type": "file", "path": f.name, "oid": "1", "size": f.stat().st_size}
                for f in files
            ],
            "revision": {
                "id": match[1],
                "sha": "1" * 40,
                "siblings": [{"rfilename": file.name} for file in files],
            },
        }[match[2]]
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def translate_path(self, path):
        return super().translate_path(re.sub("/resolve/[^/]*", "", path))

    def end_headers(self):
        self.send_header("X-Repo-Commit", "1" * 40)
        self.send_header("ETag", f'"{abs(hash(self.path))}"')
        super().end_headers()

    def log_message(self, *_):
        pass


def serve(folder):
    """Starts a Hub that has the files of a folder."""
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Hub, directory=folder)
    )
    threading.Thread(target=server.serve_forever).start()
    return server


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A folder whose files are on a Hub of this machine's own."""
    folder = tmp_path / "hub"
    folder.mkdir()
    server = serve(folder)
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield folder
    server.shutdown()
    server.server_close()
