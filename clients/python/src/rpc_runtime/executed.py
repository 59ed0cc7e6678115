"""Whether the method of a failed call ran."""

import enum


class Executed(enum.Enum):
    """Whether the method of a failed call ran."""

    NO = "no"
    """It did not run and will not run. It is safe to make the call again."""
    MAYBE = "maybe"
    """It may have run, may be running, or may still run."""
    YES = "yes"
    """It ran."""
