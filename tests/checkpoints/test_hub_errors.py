"""A network that is not there is expected, whatever HTTP library the hub's client uses."""

from __future__ import annotations

import pytest

from bitnet_bench.checkpoints.hub_errors import list_hub_errors
from bitnet_bench.evaluation import tasks


def test_a_failed_connection_is_an_error_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error that the client really raises where no name is resolved, and the newest revision is unknown then."""
    from huggingface_hub import HfApi

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    api = HfApi(endpoint="http://nowhere.invalid")
    with pytest.raises(list_hub_errors()):
        api.dataset_info("somebody/rows", timeout=5)
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: api)
    assert tasks._find_newest_revision("somebody/rows") is None
