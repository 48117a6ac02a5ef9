"""Actions without a database."""

from typing import Any

from server.action_records import ActionRecord, ActionRequest


def action(action_id: str = "a", **fields: Any) -> ActionRecord:
    """A pending action of host h1 of organisation o."""
    defaults: dict[str, Any] = {
        "action_id": action_id, "org": "o", "host": "h1", "container_id": 1, "kind": "restart", "state": "pending",
        "reason": "r", "detail": "", "requested_by": "ada", "role": "operator", "token_id": "t",
        "token_issued_at": 1.7e9, "requested_at": 1_000_000, "expires_at": 31_000_000,
    }  # fmt: skip
    return ActionRecord(**defaults | fields)


def request(**fields: Any) -> ActionRequest:
    """A request to restart a container that is there and not protected."""
    defaults: dict[str, Any] = {
        "action_id": "a", "container_id": 1, "host": "h1", "kind": "restart", "reason": "r", "requested_at": 1_000_000,
        "expires_at": 31_000_000, "idempotency_key": None, "life_us": 30_000_000, "removed": False, "protected": False,
    }  # fmt: skip
    return ActionRequest(**defaults | fields)
