"""Which organisation an agent or a simulated user belongs to, where a fleet has several."""


def organisation(org: str, organisations: int, number: int) -> str:
    """The organisation of agent, or user, `number`, from 1: they belong to `org-1`, `org-2` ... in turn.

    Args:
        org: what they are called; of one alone the whole name.
        organisations: how many there are.
        number: of the agent.
    """
    return org if organisations == 1 else f"{org}-{(number - 1) % organisations + 1}"
