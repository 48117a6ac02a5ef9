"""How numbers are written for people, the same in the table, the summary and the report."""


def number(value: float) -> str:
    """A value with thousands marked: whole from 100 000 on, else six digits."""
    return f"{value:,.0f}" if abs(value) >= 100_000 else f"{value:,.6g}"
