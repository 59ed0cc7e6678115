//! What the options of a method mean, and how its trait spells them.

use std::time::Duration;

use rpc_contract::{MethodDescription, RetryDescription};
use rpc_runtime::discovery::FoundService;

/// Whether a method of the service, in any version, is a job.
pub(crate) fn has_jobs(service: &FoundService<'_>) -> bool {
    let mut methods = service
        .descriptions
        .iter()
        .flat_map(|description| &description.methods);
    methods.any(is_job)
}

fn is_job(method: &MethodDescription) -> bool {
    method.is_oneway && method.is_idempotent && !method.is_broadcast
}

/// Returns the attribute with the method's options, if it has any. `name` is left out: a
/// description has only the name on the wire.
pub(crate) fn rpc_attribute(method: &MethodDescription) -> Option<String> {
    let flags = [
        (method.is_default, "default"),
        (method.is_idempotent, "idempotent"),
        (method.is_oneway, "oneway"),
        (method.is_broadcast, "broadcast"),
        (method.is_cancellable, "cancel"),
    ];
    let flags = flags.into_iter().filter(|(is_set, _)| *is_set);
    let mut options: Vec<_> = flags.map(|(_, name)| name.to_owned()).collect();
    options.extend(
        method
            .timeout()
            .map(|timeout| format!("timeout = \"{}\"", humantime::format_duration(timeout))),
    );
    options.extend(
        method
            .retry
            .map(|retry| format!("retry = \"{}\"", retry_text(retry))),
    );
    (!options.is_empty()).then(|| format!("#[rpc({})]", options.join(", ")))
}

/// Returns a retry policy as the trait's attribute spells it.
fn retry_text(retry: RetryDescription) -> String {
    let [min, max] = [retry.min_delay_ms, retry.max_delay_ms].map(|millis| {
        let text = humantime::format_duration(Duration::from_millis(millis)).to_string();
        // `1m30s` reads better than `1m 30s` beside `to`.
        text.replace(' ', "")
    });
    let delays = if min == max {
        min
    } else {
        format!("{min} to {max}")
    };
    format!("{} times, {delays}", retry.times)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No worker of this library serves such a broadcast, but anyone can describe one.
    #[test]
    fn a_broadcast_is_no_job() {
        let mut method = MethodDescription::new("clear");
        (method.is_oneway, method.is_idempotent) = (true, true);
        assert!(is_job(&method));
        method.is_broadcast = true;
        assert!(!is_job(&method));
    }
}
