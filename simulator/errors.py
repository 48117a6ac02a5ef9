"""What can be wrong with what is asked of the simulator."""


class PlanError(ValueError):
    """A value that a fleet cannot have. The message names the field, the value and what was expected."""

    def __init__(self, field: str, value: object, expected: str) -> None:
        super().__init__(f"{field} = {value}: expected {expected}")


def as_option(field: str, value: object) -> tuple[str, object]:
    """How people gave a field of a plan: the option's name, and its value with a unit."""
    if field.endswith("_us") and isinstance(value, int):
        return field.removesuffix("_us").replace("_", "-"), f"{value / 1e6:g}s"
    return field.replace("_", "-"), value
