"""Settings of all tests."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# How long an example takes depends on the machine, which may stop for a second at any time.
settings.register_profile(
    "no time limits", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("no time limits")
