"""What can be wrong with what is asked of the simulator."""


class PlanError(ValueError):
    """A value that a fleet cannot have. The message names the field, the value and what was expected."""

    def __init__(self, field: str, value: object, expected: str) -> None:
        super().__init__(f"{field} = {value}: expected {expected}")
