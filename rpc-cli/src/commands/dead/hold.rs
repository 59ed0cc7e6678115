//! How long a command holds letters.

use std::time::Duration;

use clap::Args;

use crate::dead_letters::scan::HoldLimit;
use crate::units;

/// How long letters are held.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct Hold {
    /// How long to hold letters. Those that were not looked at by then are left out.
    #[arg(long, default_value = "5m", value_name = "TIME", value_parser = units::parse_time)]
    pub(super) timeout: Duration,
}

impl Hold {
    pub(super) fn limit(self) -> HoldLimit {
        HoldLimit {
            time: self.timeout,
            advice: "`--timeout` holds letters longer",
        }
    }
}
