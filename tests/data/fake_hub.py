"""A hub of data sets on this machine, as far as the clients of `huggingface_hub` and `datasets` ask it."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

Files = dict[str, bytes]


class FakeHub:
    """Repositories by name, with their commits in order: the last one is `main`, and *tags* name others."""

    def __init__(self) -> None:
        self.commits: dict[str, dict[str, Files]] = {}
        self.tags: dict[str, str] = {}
        self.asked: list[str] = []
        self.url = ""

    def add(self, repo: str, files: Files, tag: str | None = None) -> str:
        """Add a commit, and return its name."""
        commit = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        self.commits.setdefault(repo, {})[commit] = files
        if tag:
            self.tags[tag] = commit
        return commit

    def find(self, repo: str, revision: str) -> tuple[str, Files] | None:
        """Return the commit that a revision means, and its files."""
        there = self.commits.get(repo, {})
        commit = next(reversed(there), "") if revision == "main" else self.tags.get(revision, revision)
        return (commit, there[commit]) if commit in there else None


@contextmanager
def serve(hub: FakeHub) -> Iterator[FakeHub]:
    """Serve *hub* on a port of this machine."""
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers.get("Content-Length") or 0)))

    def _answer(self, body: bytes = b"") -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(f"{self.command} {path}")
        if found := re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._give_file(*found.groups())
        elif found := re.fullmatch(
            r"/api/datasets/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+)(?:/(.*))?)?", path
        ):
            self._give_facts(*found.groups(), body)
        else:
            self._fail("EntryNotFound")

    def _give_file(self, repo: str, revision: str, name: str) -> None:
        commit = self.hub.find(repo, revision)
        if commit is None:
            self._fail("RevisionNotFound" if repo in self.hub.commits else "RepoNotFound")
        elif name not in commit[1]:
            self._fail("EntryNotFound", commit[0])
        else:
            data = commit[1][name]
            part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
            start, stop = (int(part[1]), int(part[2] or len(data) - 1) + 1) if part else (0, len(data))
            headers = {"X-Repo-Commit": commit[0], "ETag": f'"{hashlib.sha1(data).hexdigest()}"'}
            if part:
                headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
            self._send(206 if part else 200, data[start:stop], headers, "application/octet-stream")

    def _give_facts(self, repo: str, kind: str | None, revision: str | None, under: str | None, body: bytes) -> None:
        commit = self.hub.find(repo, revision or "main")
        if commit is None:
            self._fail("RevisionNotFound" if repo in self.hub.commits else "RepoNotFound")
            return
        name, files = commit
        entries = [_describe(file, data) for file, data in files.items()]
        folders = sorted({file.rpartition("/")[0] for file in files} - {""})
        entries += [{"type": "directory", "path": folder, "oid": "0" * 40, "size": 0} for folder in folders]
        if kind == "paths-info":
            asked = json.loads(body)["paths"] if body.startswith(b"{") else re.findall("paths=([^&]*)", body.decode())
            wanted = {unquote(one) for one in asked}
            self._give_json([entry for entry in entries if entry["path"] in wanted])
        elif kind == "tree":
            inside = [entry for entry in entries if not under or str(entry["path"]).startswith(f"{under}/")]
            self._give_json(inside) if inside or not under else self._fail("EntryNotFound")
        else:
            siblings = [{"rfilename": file} for file in files]
            about = {"_id": "0" * 24, "id": repo, "sha": name, "siblings": siblings, "private": False, "gated": False}
            self._give_json({**about, "disabled": False, "downloads": 0, "likes": 0, "tags": []})

    def _give_json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {}, "application/json")

    def _fail(self, code: str, commit: str | None = None) -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": code} | ({"X-Repo-Commit": commit} if commit else {})
        self._send(404, json.dumps({"error": code}).encode(), headers, "application/json")

    def _send(self, status: int, data: bytes, headers: dict[str, str], kind: str) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Type": kind, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _describe(name: str, data: bytes) -> dict[str, object]:
    return {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
