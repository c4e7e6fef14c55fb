"""Who is told of a clip's end: the address that the request named, if it is public or allowed."""

from __future__ import annotations

import aiohttp
from yarl import URL

from depthface.errors import ClientError, InvalidInput
from depthface_gateway.depthflow.wire import MESSAGES, STATES
from depthface_gateway.jobs.claims import Claim
from depthface_gateway.jobs.sync import Parcel
from depthface_gateway.outward import Networks, session

__all__ = ["Webhooks", "check_url"]

_TIMEOUT_S = 30.0  # as the original waits


class WebhookFailed(ClientError):
    """It did not take the message."""

    status = 502


def check_url(url: str) -> None:
    """Raise `InvalidInput` if this is no address that can be told anything."""
    try:
        parsed = URL(url)
    except ValueError as error:
        raise InvalidInput(f"webhook_url is no address ({error}).", "Give http://… or https://….") from error
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.user is not None:
        raise InvalidInput(
            "webhook_url does not begin with http:// or https://, names no host, or names a user.",
            "Give http://… or https://…, without a user.",
        )


class Webhooks:
    """Tells of ends, good and bad; a private address is refused where the socket is made.

    Args:
        networks: what is allowed besides the public Internet.
    """

    def __init__(self, networks: Networks) -> None:
        self._networks = networks

    def is_told(self, claim: Claim, is_success: bool) -> bool:
        """Whether the request named an address."""
        return bool(claim.parameters.get("webhook_url"))

    async def tell(self, parcel: Parcel) -> None:
        """Post the end of a task; the metadata of one that failed is empty.

        Raises:
            WebhookFailed: it was not taken.
        """
        state = STATES[parcel.status]
        message = {
            "task_id": parcel.job_id,
            "status": state,
            "message": MESSAGES[state],
            "result_url": f"/api/v1/result/{parcel.job_id}" if state == "completed" else None,
            "error_message": parcel.error_message,
            "metadata": parcel.result,
        }
        url = str(parcel.parameters["webhook_url"])
        try:
            async with (
                session(self._networks, _TIMEOUT_S) as client,
                client.post(url, json=message, allow_redirects=False) as response,
            ):
                status = response.status
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise WebhookFailed(f"The webhook cannot be told ({str(error) or type(error).__name__}).") from error
        if not 200 <= status < 300:
            raise WebhookFailed(f"The webhook answered {status}.")
