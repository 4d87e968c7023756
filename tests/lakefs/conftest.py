"""Fixtures: a separate repository for each test, accessed through lakefs-sdk and plain HTTP."""

import secrets
import urllib.parse
from dataclasses import dataclass

import lakefs_sdk as sdk
import pytest
import urllib3
from lakefs_sdk.client import LakeFSClient

from tests.support.servers import Server


@dataclass
class Repo:
    """One repository, with methods for frequent operations; everything else goes through `api`."""

    server: Server
    api: LakeFSClient
    http: urllib3.PoolManager
    name: str

    def raw(
        self, method: str, where: str, body: bytes | None = None, headers: dict[str, str] | None = None, **query: str
    ) -> urllib3.BaseHTTPResponse:
        """Send a request below this repository; the caller percent-encodes `where` if necessary."""
        keys = urllib3.make_headers(basic_auth=f"{self.server.access_key_id}:{self.server.secret_access_key}")
        url = f"{self.server.endpoint}/api/v1/repositories/{self.name}{where}"
        if query:
            url += "?" + urllib.parse.urlencode(query)
        return self.http.request(method, url, body=body, headers=keys | (headers or {}), retries=False)

    def put(self, path: str, data: bytes | str = b"x", branch: str = "main", **metadata: str) -> sdk.ObjectStats:
        headers = {f"x-lakefs-meta-{key}": value for key, value in metadata.items()}
        headers["Content-Type"] = "application/octet-stream"
        body = data.encode() if isinstance(data, str) else data
        answer = self.raw("POST", f"/branches/{branch}/objects", body, headers, path=path)
        assert answer.status == 201, answer.data
        return sdk.ObjectStats.from_json(answer.data.decode())

    def get(self, path: str, ref: str = "main", **headers: str) -> bytes:
        return self.raw("GET", f"/refs/{urllib.parse.quote(ref, safe='')}/objects", None, headers, path=path).data

    def delete(self, path: str, branch: str = "main") -> None:
        self.api.objects_api.delete_object(self.name, branch, path)

    def commit(self, branch: str = "main", message: str = "message", **options: object) -> sdk.Commit:
        return self.api.commits_api.commit(self.name, branch, sdk.CommitCreation(message=message, **options))

    def branch(self, name: str, source: str = "main") -> str:
        creation = sdk.BranchCreation(name=name, source=source)
        return str(self.api.branches_api.create_branch(self.name, creation))

    def merge(self, source: str, destination: str = "main", **options: object) -> str:
        options_model = sdk.Merge(**options)
        return str(self.api.refs_api.merge_into_branch(self.name, source, destination, merge=options_model).reference)

    def stats(self, ref: str = "main", amount: int = 1000, **options: str) -> list[sdk.ObjectStats]:
        """Return all pages of a listing."""
        found: list[sdk.ObjectStats] = []
        after = ""
        while True:
            page = self.api.objects_api.list_objects(self.name, ref, after=after, amount=amount, **options)
            found += page.results
            assert page.pagination.results == len(page.results) <= amount
            if not page.pagination.has_more:
                return found
            after = page.pagination.next_offset

    def paths(self, ref: str = "main", amount: int = 1000, **options: str) -> list[str]:
        return [stats.path for stats in self.stats(ref, amount, **options)]

    def diff(self, left: str, right: str, kind: str = "two_dot", **options: object) -> list[tuple[str, str]]:
        page = self.api.refs_api.diff_refs(self.name, left, right, type=kind, **options)
        return [(change.path, change.type) for change in page.results]

    def staged(self, branch: str = "main", **options: object) -> list[tuple[str, str]]:
        page = self.api.branches_api.diff_branch(self.name, branch, **options)
        return [(change.path, change.type) for change in page.results]


def open_repo(server: Server) -> Repo:
    """Create a repository on `server`."""
    configuration = sdk.Configuration(
        host=f"{server.endpoint}/api/v1", username=server.access_key_id, password=server.secret_access_key
    )
    api, name = LakeFSClient(configuration), f"test-{secrets.token_hex(8)}"
    creation = sdk.RepositoryCreation(name=name, storage_namespace=server.namespace(name))
    api.repositories_api.create_repository(creation)
    return Repo(server, api, urllib3.PoolManager(maxsize=16, timeout=60), name)


@pytest.fixture
def repo(lakefs_server: Server) -> Repo:
    return open_repo(lakefs_server)
