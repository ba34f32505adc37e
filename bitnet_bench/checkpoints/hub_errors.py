"""List the exceptions that mean: the hub or the network did not answer as asked."""

from __future__ import annotations


def list_hub_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions to expect of huggingface_hub, those of its HTTP library included.

    That library (requests, httpx, httpx2) depends on the version of the hub's client; a failed connection is an error
    of its own there, and not an OSError.
    """
    from huggingface_hub import errors

    http = [one for one in errors.HfHubHTTPError.__mro__ if one.__name__ in ("HTTPError", "RequestException")]
    return (
        errors.HfHubHTTPError,
        errors.HFValidationError,
        errors.LocalEntryNotFoundError,
        errors.OfflineModeIsEnabled,
        OSError,
        ValueError,
        *http,
    )
