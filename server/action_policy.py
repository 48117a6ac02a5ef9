"""Who may do what to a container: Operators act, only Admins stop or restart what is protected."""

from server.action_records import ActionRequest, Denial
from server.auth.principal import User
from server.protocol.error_codes import ErrorCode
from server.protocol.messages import ActionKind


def denial(user: User, request: ActionRequest) -> Denial | None:
    """Why the policy refuses a request; None: it does not."""
    if not user.may("operator"):
        return Denial(ErrorCode.FORBIDDEN, f"role {user.role}: expected operator or above")
    if request.removed:
        return Denial("container_gone", "the container is no longer there")
    if needs_admin(request.kind, request.protected) and not user.may("admin"):
        return Denial("protected", f"the container is protected: only an admin may {request.kind} it")
    return None


def needs_admin(kind: ActionKind, protected: bool) -> bool:
    """Whether only an Admin may do this: what is protected may be started by every Operator."""
    return protected and kind != "start"
