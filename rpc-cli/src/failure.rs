//! What can go wrong, what to do about it, and what the process ends with.

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use rpc_runtime::{BrokerError, CallError, Executed, FaultCode, InvalidDescription};
use serde_json::json;

use crate::output::one_line;

/// How a command ended: the exit codes of `rpc --help`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done = 0,
    /// It went as it should, and the answer is no.
    Negative = 1,
    Unusable = 2,
    NotRun = 3,
    MayHaveRun = 4,
    NoBroker = 5,
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        Self::from(outcome as u8)
    }
}

/// Why a command could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// What was typed does not make sense.
    #[error("{message}")]
    Usage { message: String, hint: Option<String> },

    #[error("cannot read {}", .path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },

    #[error("{what} is no JSON")]
    NoJson {
        what: String,
        #[source]
        source: serde_json::Error,
    },

    /// No such service, queue or method.
    #[error("{message}")]
    NotFound { message: String, hint: String },

    #[error("the description cannot be used")]
    Description(#[from] InvalidDescription),

    /// No source: it is no error itself, as the method's own is a mere value.
    #[error("the call failed")]
    Call(Box<CallError<String>>),

    #[error(transparent)]
    Broker(#[from] BrokerError),

    /// Standard output cannot be written to.
    #[error("cannot write the output")]
    Output(#[source] io::Error),
}

impl From<CallError<String>> for Failure {
    fn from(error: CallError<String>) -> Self {
        match error {
            // Whatever it was that could not be sent.
            CallError::Broker {
                source: source @ (BrokerError::Queue { .. } | BrokerError::Exchange { .. }),
                executed: Executed::No,
                ..
            } => Self::Broker(source),
            other => Self::Call(Box::new(other)),
        }
    }
}

impl Failure {
    pub(crate) fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Usage {
            message: message.into(),
            hint: Some(hint.into()),
        }
    }

    pub(crate) fn outcome(&self) -> Outcome {
        match self {
            // Who reads no further has what they wanted.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => Outcome::Done,
            Self::Usage { .. } | Self::File { .. } | Self::NoJson { .. } | Self::Output(_) => {
                Outcome::Unusable
            }
            Self::NotFound { .. } | Self::Description(_) => Outcome::NotRun,
            Self::Call(error) => of_call(error),
            Self::Broker(
                BrokerError::InvalidAddress { .. }
                | BrokerError::Environment { .. }
                | BrokerError::InvalidTls { .. }
                | BrokerError::TlsUnsupported,
            ) => Outcome::Unusable,
            Self::Broker(_) => Outcome::NoBroker,
        }
    }

    /// Whether there is anybody to tell.
    pub(crate) fn is_worth_telling(&self) -> bool {
        self.outcome() != Outcome::Done
    }

    /// The method's own error, as JSON.
    fn of_method(&self) -> Option<&str> {
        match self {
            Self::Call(error) => match &**error {
                CallError::Service(error) => Some(error),
                _ => None,
            },
            _ => None,
        }
    }

    /// What happened, in one line.
    pub(crate) fn message(&self) -> String {
        match self.of_method() {
            // The error itself follows, as JSON.
            Some(_) => "the method failed with its own error".to_owned(),
            None => match self {
                Self::Call(error) => chain_of_call(error),
                other => chain(other.to_string(), other.source()),
            },
        }
    }

    /// What to do about it.
    fn hint(&self) -> Option<String> {
        match self {
            Self::Usage { hint, .. } => hint.clone(),
            Self::NotFound { hint, .. } => Some(hint.clone()),
            Self::NoJson { .. } => {
                Some("write it as in '{\"id\": \"user:12345\"}', in single quotes for the shell".to_owned())
            }
            Self::Call(error) => hint_of_call(error).map(str::to_owned),
            Self::Broker(error) => hint_of_broker(error).map(str::to_owned),
            Self::File { .. } | Self::Description(_) | Self::Output(_) => None,
        }
    }

    /// For people: the lines without their ends.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("rpc: {}", one_line(&self.message()));
        if let Some(error) = self.of_method() {
            text = format!("{text}\n{error}");
        }
        if let Some(hint) = self.hint() {
            text = format!("{text}\n     {hint}");
        }
        text
    }

    /// For programs.
    pub(crate) fn json(&self) -> String {
        let mut json = json!({"failure": self.message(), "exit_code": self.outcome() as u8});
        if let Self::Call(error) = self {
            json["executed"] = executed(error.executed()).into();
            if let CallError::Fault(fault) = &**error {
                json["fault"] = fault.code.as_str().into();
            }
        }
        if let Some(hint) = self.hint() {
            json["hint"] = hint.into();
        }
        let json = json.to_string();
        match (self.of_method(), json.strip_prefix('{')) {
            // As it is: a value of `serde_json` would round its numbers.
            (Some(error), Some(rest)) => format!("{{\"error\":{error},{rest}"),
            _ => json,
        }
    }
}

fn chain_of_call(error: &CallError<String>) -> String {
    // It is no error itself, as the method's own is a mere value.
    let source: Option<&(dyn Error + 'static)> = match error {
        CallError::TimedOut { source, .. } => source.as_ref().map(|source| source as _),
        CallError::Fault(fault) => Some(fault),
        CallError::Encode(source) => Some(source),
        CallError::Invalid { source, .. } => Some(source),
        CallError::BadReply { source, .. } | CallError::Middleware { source, .. } => Some(&**source),
        CallError::Broker { source, .. } => Some(source),
        _ => None,
    };
    chain(error.to_string(), source)
}

/// A text with all that caused it, but for what it says already: as [`Chain`](rpc_runtime::Chain), for people.
fn chain(mut text: String, mut source: Option<&(dyn Error + 'static)>) -> String {
    while let Some(error) = source {
        let cause = error.to_string();
        if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
        source = error.source();
    }
    text
}

fn of_call(error: &CallError<String>) -> Outcome {
    match error {
        CallError::Service(_) | CallError::ServiceText(_) => Outcome::Negative,
        CallError::Encode(_) | CallError::Invalid { .. } | CallError::TooLarge { .. } => Outcome::Unusable,
        other => match other.executed() {
            Executed::No => Outcome::NotRun,
            Executed::Maybe | Executed::Yes => Outcome::MayHaveRun,
        },
    }
}

pub(crate) fn executed(executed: Executed) -> &'static str {
    match executed {
        Executed::No => "no",
        Executed::Maybe => "maybe",
        Executed::Yes => "yes",
    }
}

fn hint_of_call(error: &CallError<String>) -> Option<&'static str> {
    Some(match error {
        CallError::NoServer { .. } => {
            "no worker was ever started for it on this virtual host: start one, or see what there is with `rpc list`"
        }
        CallError::TimedOut {
            executed: Executed::No,
            ..
        } => "the method did not run: it is safe to call again",
        CallError::TimedOut { .. } => {
            "the method may have run, or may yet run; `--timeout` lets it take longer, and `rpc ping` tells whether workers answer"
        }
        CallError::Fault(fault) => match fault.code {
            FaultCode::UnknownMethod => "see its methods with `rpc describe`",
            FaultCode::BadRequest => "see its arguments with `rpc describe`",
            FaultCode::Unauthorized => {
                "the RabbitMQ user of the address may not call it: see `--url`, and RPC_RUNTIME_SEND_USER_ID"
            }
            FaultCode::Interrupted => {
                "its worker ended meanwhile, and the method may have run: look before you call again"
            }
            FaultCode::Panicked => "the worker's log has the reason",
            FaultCode::Rejected => "the method did not run: try again later",
            _ => return None,
        },
        CallError::Encode(_) => "see the method's arguments with `rpc describe`",
        CallError::Refused { .. } => "the queue may be full: see it with `rabbitmqctl list_queues`",
        _ => return None,
    })
}

fn hint_of_broker(error: &BrokerError) -> Option<&'static str> {
    Some(match error {
        BrokerError::InvalidAddress { .. } => {
            "give it with `--url` or in AMQP_URL: amqp://user:password@host:port/vhost"
        }
        BrokerError::Connect { source, .. } => {
            let said = chain(String::new(), Some(source));
            match said {
                _ if said.contains("ACCESS_REFUSED") => {
                    "the user or the password is wrong: `--url` or AMQP_URL names them, in front of the host"
                }
                _ if said.contains("NOT_ALLOWED") => {
                    "there is no such virtual host, or the user may not use it: `--url` or AMQP_URL names it, behind the host"
                }
                _ => "is it running there? `--url` or AMQP_URL names the address",
            }
        }
        BrokerError::Unresponsive { .. } => {
            "is it a RabbitMQ that runs there? `--url` or AMQP_URL names the address, and RPC_RUNTIME_CONNECT_TIMEOUT how long to wait"
        }
        BrokerError::Tls { .. } | BrokerError::InvalidTls { .. } => {
            "certificates are read from the files that RPC_RUNTIME_TLS_CA_FILE, RPC_RUNTIME_TLS_CERTIFICATE_FILE and RPC_RUNTIME_TLS_KEY_FILE name"
        }
        BrokerError::Exchange { .. } => {
            "looking for workers takes the permission to write to rpc.discovery; `--queue` does without"
        }
        BrokerError::Queue { .. } => {
            "it takes the permission to configure and read ^amq[.]gen-, for the reply queue; RPC_RUNTIME_REPLY_QUEUE=direct with `--queue` does without"
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use rpc_runtime::Fault;
    use serde_json::Value;

    use super::*;

    fn json_of(failure: &Failure) -> Value {
        serde_json::from_str(&failure.json()).unwrap()
    }

    fn call(error: CallError<String>) -> Failure {
        Failure::Call(Box::new(error))
    }

    #[test]
    fn exit_codes_tell_whether_the_method_ran() {
        let fault = |code| call(CallError::Fault(Fault::new(code, "")));
        let timed_out = |executed| call(CallError::timed_out(std::time::Duration::from_secs(1), executed));
        for (failure, outcome) in [
            (call(CallError::Service("1".to_owned())), Outcome::Negative),
            (call(CallError::ServiceText("x".into())), Outcome::Negative),
            (call(CallError::no_server("q")), Outcome::NotRun),
            (fault(FaultCode::BadRequest), Outcome::NotRun),
            (fault(FaultCode::Interrupted), Outcome::MayHaveRun),
            (fault(FaultCode::Panicked), Outcome::MayHaveRun),
            (timed_out(Executed::No), Outcome::NotRun),
            (timed_out(Executed::Maybe), Outcome::MayHaveRun),
            (call(CallError::too_large(2, 1)), Outcome::Unusable),
            (Failure::Broker(BrokerError::Closed), Outcome::NoBroker),
            // Nobody was asked yet.
            (Failure::Broker(BrokerError::TlsUnsupported), Outcome::Unusable),
            (
                Failure::Broker(BrokerError::invalid_address("")),
                Outcome::Unusable,
            ),
        ] {
            assert_eq!(failure.outcome(), outcome, "{failure:?}");
        }
    }

    #[test]
    fn failures_are_told_with_their_causes_and_what_to_do() {
        let failure = call(CallError::Fault(Fault::new(
            FaultCode::BadRequest,
            "missing field `id`",
        )));
        assert_eq!(
            failure.text(),
            "rpc: the worker answered with a fault: bad_request: missing field `id`\n     see its arguments with `rpc describe`"
        );
        assert_eq!(
            json_of(&failure),
            json!({
                "failure": "the worker answered with a fault: bad_request: missing field `id`",
                "exit_code": 3,
                "executed": "no",
                "fault": "bad_request",
                "hint": "see its arguments with `rpc describe`",
            })
        );
    }

    #[test]
    fn the_methods_own_error_is_json() {
        let failure = call(CallError::Service(r#"{"UnknownUser":{"id":"x"}}"#.to_owned()));
        assert_eq!(
            failure.text(),
            "rpc: the method failed with its own error\n{\"UnknownUser\":{\"id\":\"x\"}}"
        );
        assert_eq!(json_of(&failure)["error"], json!({"UnknownUser": {"id": "x"}}));
        assert_eq!(json_of(&failure)["executed"], "yes");
        let large = call(CallError::Service(u128::MAX.to_string()));
        assert!(large.json().contains(&format!("\"error\":{},", u128::MAX)));
    }
}
