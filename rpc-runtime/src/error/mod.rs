//! The errors of callers, workers and the connection to the broker.

mod broker;
mod call;
mod cause;
mod chain;
mod server;
mod tls;

pub use broker::BrokerError;
pub use call::{CallError, MethodKind};
pub use cause::Cause;
pub use chain::Chain;
pub use server::ServerError;
pub use tls::TlsFailure;

#[cfg(test)]
mod tests {
    use std::error::Error;
    use std::time::Duration;

    use super::*;
    use crate::protocol::{Executed, Fault, FaultCode};

    #[test]
    fn executed_tells_whether_the_method_ran() {
        assert_eq!(CallError::Service("x").executed(), Executed::Yes);
        assert_eq!(
            CallError::<()>::NoServer { queue: "q".into() }.executed(),
            Executed::No
        );
        let interrupted = CallError::<()>::Fault(Fault::new(FaultCode::Interrupted, ""));
        assert_eq!(interrupted.executed(), Executed::Maybe);
        let late = CallError::<()>::TimedOut {
            limit: Duration::from_secs(1),
            executed: Executed::Maybe,
            source: None,
        };
        assert_eq!(late.executed(), Executed::Maybe);
    }

    #[test]
    fn chain_shows_each_cause_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("IO error: {0}")]
        struct Repeats(#[source] std::io::Error);

        let refused = || Repeats(std::io::Error::from_raw_os_error(111));
        let connect = BrokerError::Connect {
            host: "h:1".into(),
            source: Cause::new(refused()),
        };
        let text = Chain(&connect).to_string();
        assert_eq!(text.matches("os error 111").count(), 1, "{text}");
        assert!(connect.source().unwrap().source().is_none());
        assert_eq!(Chain(&refused()).to_string(), refused().to_string());
    }

    #[test]
    fn sources_are_kept() {
        let cause = Cause::new(std::io::Error::other("refused"));
        let error: CallError = CallError::Broker {
            source: BrokerError::Connect {
                host: "h:1".into(),
                source: cause,
            },
            executed: Executed::No,
        };
        let broker = error.source().unwrap();
        assert_eq!(broker.to_string(), "cannot connect to the broker at h:1");
        assert_eq!(broker.source().unwrap().to_string(), "refused");
        assert_eq!(
            Chain(&error).to_string(),
            "the broker failed the call: cannot connect to the broker at h:1: refused"
        );
    }
}
