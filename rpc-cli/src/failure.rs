//! The failures of commands: their messages, hints and exit codes.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use rpc_runtime::{BrokerError, CallError, Executed, FaultCode, InvalidDescription, MethodError};
use serde_json::json;

use crate::text::one_line;

/// How a command ended. The values are the exit codes that `rpc --help` lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done = 0,
    /// The command worked, and its result is negative, such as the method's own error, a change
    /// that breaks, or no reply to a ping.
    Negative = 1,
    /// The command line, a variable, the address or a file is invalid, a name is ambiguous, or `rpc
    /// console` cannot listen. No method of a service was called.
    InvalidInput = 2,
    /// The method did not run, or what the command names was not found.
    NotRun = 3,
    /// The method ran or may have run, or the output cannot be written.
    MayHaveRun = 4,
    /// The broker cannot be reached, or refuses something.
    NoBroker = 5,
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        Self::from(outcome as u8)
    }
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The command line, a variable or a file is invalid, or a name is ambiguous.
    #[error("{message}")]
    Usage { message: String, hint: Option<String> },

    #[error("cannot read {}", .path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },

    /// `rpc new` cannot create the folder of a project. Nothing is left of it.
    #[error("cannot create {}", .path.display())]
    Create {
        path: PathBuf,
        #[source]
        source: io::Error,
    },

    #[error("{what} is not JSON")]
    InvalidJson {
        what: String,
        #[source]
        source: serde_json::Error,
    },

    /// There is no such service, queue, method or letter, or no worker answered what was asked.
    #[error("{message}")]
    NotFound { message: String, hint: String },

    /// Dead letters stay in their queue: not all were looked at, or the queue for their copies
    /// refused one.
    #[error("{message}")]
    Stay { message: String, hint: String },

    /// A dead letter may have been sent again, and may still be in its queue.
    #[error("letter {id} may have been retried, and may still be in its queue")]
    MaybeRetried {
        id: String,
        #[source]
        source: BrokerError,
    },

    #[error("the description cannot be used")]
    Description(#[from] InvalidDescription),

    /// It has no `#[source]`: [`message`](Self::message) shows the error instead of this text.
    #[error("the call failed")]
    Call(Box<CallError<MethodError<String>>>),

    #[error(transparent)]
    Broker(#[from] BrokerError),

    /// The broker refused what a call needs, so the call was not sent.
    #[error(transparent)]
    NotSent(BrokerError),

    /// An item of the caller's stream is not JSON, or cannot be read. The call was cancelled.
    #[error("{0}")]
    BadItems(String),

    /// Ctrl-C was pressed, perhaps before the request was sent. The call was dropped, and cancelled
    /// if the method allows it.
    #[error("the command was interrupted, and the method may have run")]
    Interrupted,

    #[error("cannot listen at {address}")]
    Listen {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },

    #[error("cannot listen for the signals that end the command")]
    Signals(#[source] io::Error),

    #[error("cannot write the output")]
    Output(#[source] io::Error),
}

impl From<CallError<MethodError<String>>> for Failure {
    fn from(error: CallError<MethodError<String>>) -> Self {
        match error {
            // The broker refused the reply queue or `rpc.control` before the request was sent:
            // report it like a failure to connect, with its hint about permissions and exit code 5.
            CallError::Broker {
                source: source @ (BrokerError::Queue { .. } | BrokerError::Exchange { .. }),
                executed: Executed::No,
                ..
            } => Self::NotSent(source),
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

    pub(crate) fn listen(address: SocketAddr, source: io::Error) -> Self {
        Self::Listen { address, source }
    }

    /// Returns how a command ends that fails with this.
    pub(crate) fn outcome(&self) -> Outcome {
        match self {
            // The reader of the pipe has read enough.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => Outcome::Done,
            // The method may have run, also if only its result cannot be printed.
            Self::Output(_) | Self::Interrupted | Self::BadItems(_) => Outcome::MayHaveRun,
            // The folder is the output.
            Self::Create { .. } => Outcome::MayHaveRun,
            Self::Usage { .. }
            | Self::File { .. }
            | Self::InvalidJson { .. }
            | Self::Listen { .. }
            | Self::Signals(_) => Outcome::InvalidInput,
            Self::NotFound { .. } | Self::Description(_) => Outcome::NotRun,
            Self::Stay { .. } => Outcome::Negative,
            Self::Call(error) => outcome_of_call(error),
            Self::Broker(
                BrokerError::InvalidAddress { .. }
                | BrokerError::Environment { .. }
                | BrokerError::InvalidTls { .. }
                | BrokerError::TlsUnsupported,
            ) => Outcome::InvalidInput,
            Self::Broker(_) | Self::NotSent(_) | Self::MaybeRetried { .. } => Outcome::NoBroker,
        }
    }

    /// Whether the failure is printed. A closed pipe is not: see [`outcome`](Self::outcome).
    pub(crate) fn is_reported(&self) -> bool {
        self.outcome() != Outcome::Done
    }

    /// Returns the method's own error as JSON. `None` if there is none, or if it is only text.
    pub(crate) fn method_error(&self) -> Option<&str> {
        match self {
            Self::Call(error) => match &**error {
                CallError::Service(error) => Some(error.value()),
                _ => None,
            },
            _ => None,
        }
    }

    /// Returns what happened, with the causes. May contain line feeds and control characters from a
    /// worker.
    pub(crate) fn message(&self) -> String {
        match self {
            // `text` and `json` show the error itself.
            _ if self.method_error().is_some() => "the method failed with its own error".to_owned(),
            Self::Call(error) => with_causes(error.to_string(), error.source()),
            other => with_causes(other.to_string(), other.source()),
        }
    }

    /// Returns whether the method of a failed call ran: `no`, `maybe` or `yes`. `None` if something
    /// else failed, for instance the search for its service.
    pub(crate) fn executed(&self) -> Option<&'static str> {
        match self {
            Self::Call(error) => Some(executed_text(error.executed())),
            Self::NotSent(_) => Some(executed_text(Executed::No)),
            Self::Interrupted | Self::BadItems(_) => Some(executed_text(Executed::Maybe)),
            _ => None,
        }
    }

    /// Returns the code of the fault if a worker answered the call with one.
    pub(crate) fn fault(&self) -> Option<&str> {
        match self {
            Self::Call(error) => match &**error {
                CallError::Fault(fault) => Some(fault.code.as_str()),
                _ => None,
            },
            _ => None,
        }
    }

    /// Returns what to do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Usage { hint, .. } => hint.clone(),
            Self::NotFound { hint, .. } | Self::Stay { hint, .. } => Some(hint.clone()),
            Self::MaybeRetried { .. } => Some(
                "look for it with `rpc dead QUEUE list`: a job may run twice, so a second retry does no harm"
                    .to_owned(),
            ),
            Self::InvalidJson { .. } => {
                Some("write it like '{\"id\": \"user:12345\"}', in single quotes for the shell".to_owned())
            }
            Self::BadItems(_) => {
                Some("write each item as JSON on a line of its own; the call was cancelled".to_owned())
            }
            Self::Call(error) => hint_of_call(error).map(str::to_owned),
            Self::Broker(error) | Self::NotSent(error) => hint_of_broker(error).map(str::to_owned),
            Self::Listen { .. } => Some("choose another one with `--listen`".to_owned()),
            Self::File { .. }
            | Self::Create { .. }
            | Self::Description(_)
            | Self::Interrupted
            | Self::Signals(_)
            | Self::Output(_) => None,
        }
    }

    /// Returns the failure for people.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("rpc: {}", one_line(&self.message()));
        if let Some(error) = self.method_error() {
            text = format!("{text}\n{error}");
        }
        if let Some(hint) = self.hint() {
            text = format!("{text}\n     {hint}");
        }
        text
    }

    /// Returns the failure as a JSON object on one line, for `--json`.
    pub(crate) fn json(&self) -> String {
        let mut json = json!({"failure": self.message(), "exit_code": self.outcome() as u8});
        if let Some(executed) = self.executed() {
            json["executed"] = executed.into();
        }
        if let Some(fault) = self.fault() {
            json["fault"] = fault.into();
        }
        if let Some(hint) = self.hint() {
            json["hint"] = hint.into();
        }
        let json = json.to_string();
        match (self.method_error(), json.strip_prefix('{')) {
            // Parsing the error would round large numbers.
            (Some(error), Some(rest)) => format!("{{\"error\":{error},{rest}"),
            _ => json,
        }
    }
}

/// Appends the causes of an error to its text, except for those that it already contains.
fn with_causes(mut text: String, mut source: Option<&(dyn Error + 'static)>) -> String {
    while let Some(error) = source {
        let cause = error.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
        source = error.source();
    }
    text
}

fn outcome_of_call(error: &CallError<MethodError<String>>) -> Outcome {
    match error {
        CallError::Service(_) | CallError::ServiceText(_) => Outcome::Negative,
        CallError::Encode(_) | CallError::Invalid { .. } | CallError::TooLarge { .. } => {
            Outcome::InvalidInput
        }
        other => match other.executed() {
            Executed::No => Outcome::NotRun,
            Executed::Maybe | Executed::Yes => Outcome::MayHaveRun,
        },
    }
}

fn executed_text(executed: Executed) -> &'static str {
    match executed {
        Executed::No => "no",
        Executed::Maybe => "maybe",
        Executed::Yes => "yes",
    }
}

/// Returns what to do about a failed call.
fn hint_of_call(error: &CallError<MethodError<String>>) -> Option<&'static str> {
    Some(match error {
        CallError::NoServer { .. } => {
            "no worker was started for it on this virtual host: start one, or see the running services with `rpc list`"
        }
        CallError::NoWorkers { .. } => {
            "no worker of the queue is connected, or its RabbitMQ user may not use rpc.control: `rpc list` shows the running services"
        }
        CallError::TimedOut {
            executed: Executed::No,
            ..
        } => "the method did not run: it is safe to call again",
        CallError::TimedOut { .. } => {
            "the method may have run, or may still run; `--timeout` waits longer, and `rpc ping` shows whether workers answer"
        }
        CallError::Fault(fault) => match fault.code {
            FaultCode::UnknownMethod => "`rpc describe` shows its methods",
            FaultCode::BadRequest => "`rpc describe` shows its arguments",
            FaultCode::Unauthorized => {
                "the worker does not allow your RabbitMQ user to call it: see `--url`, and RPC_RUNTIME_SEND_USER_ID"
            }
            FaultCode::Interrupted => {
                "its worker ended while the method may have been running: check its effects before you call again"
            }
            FaultCode::Panicked => "the reason is in the worker's log",
            FaultCode::Rejected => "the method did not run: try again later",
            _ => return None,
        },
        CallError::Encode(_) => "`rpc describe` shows the method's arguments",
        CallError::Refused { .. } => "the queue may be full: `rpc stats` shows its depth",
        _ => return None,
    })
}

/// Returns what to do if the broker cannot be reached, or refuses something.
fn hint_of_broker(error: &BrokerError) -> Option<&'static str> {
    Some(match error {
        BrokerError::InvalidAddress { .. } => {
            "give it with `--url` or in AMQP_URL: amqp://user:password@host:port/vhost"
        }
        BrokerError::Connect { source, .. } => {
            let causes = with_causes(String::new(), Some(source));
            if causes.contains("ACCESS_REFUSED") {
                "the user or the password is wrong: they are before the host in `--url` or AMQP_URL"
            } else if causes.contains("NOT_ALLOWED") {
                "there is no such virtual host, or the user may not use it: it is after the host in `--url` or AMQP_URL"
            } else {
                "is RabbitMQ running there? `--url` or AMQP_URL sets the address"
            }
        }
        BrokerError::Unresponsive { .. } => {
            "is it RabbitMQ that runs there? `--url` or AMQP_URL sets the address, and RPC_RUNTIME_CONNECT_TIMEOUT how long to wait"
        }
        BrokerError::Tls { .. } | BrokerError::InvalidTls { .. } => {
            "RPC_RUNTIME_TLS_CA_FILE, RPC_RUNTIME_TLS_CERTIFICATE_FILE and RPC_RUNTIME_TLS_KEY_FILE set the files with certificates"
        }
        BrokerError::Exchange { .. } => {
            "broadcasts and searching for workers need permission to write to rpc.control; calls with `--queue` do not"
        }
        BrokerError::Queue { queue, .. } if queue.ends_with(".dead") => {
            "`rpc dead` needs permission to read this queue"
        }
        BrokerError::ChannelClosed { source, .. } if source.to_string().contains("ACCESS_REFUSED") => {
            "`rpc dead QUEUE retry` needs permission to write to amq.default"
        }
        BrokerError::Queue { .. } => {
            "the reply queue needs permission to configure and read ^amq[.]gen-; RPC_RUNTIME_REPLY_QUEUE=direct with `--queue` does not"
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

    fn call(error: CallError<MethodError<String>>) -> Failure {
        Failure::Call(Box::new(error))
    }

    #[test]
    fn exit_codes_show_whether_the_method_ran() {
        let fault = |code| call(CallError::Fault(Fault::new(code, "")));
        let timed_out = |executed| call(CallError::timed_out(std::time::Duration::from_secs(1), executed));
        for (failure, outcome) in [
            (
                call(CallError::Service(MethodError::new("1".to_owned()))),
                Outcome::Negative,
            ),
            (call(CallError::ServiceText("x".into())), Outcome::Negative),
            (call(CallError::no_server("q")), Outcome::NotRun),
            (fault(FaultCode::BadRequest), Outcome::NotRun),
            (fault(FaultCode::Interrupted), Outcome::MayHaveRun),
            (fault(FaultCode::Panicked), Outcome::MayHaveRun),
            (timed_out(Executed::No), Outcome::NotRun),
            (timed_out(Executed::Maybe), Outcome::MayHaveRun),
            (call(CallError::too_large(2, 1)), Outcome::InvalidInput),
            (
                Failure::Output(io::ErrorKind::StorageFull.into()),
                Outcome::MayHaveRun,
            ),
            (Failure::Broker(BrokerError::Closed), Outcome::NoBroker),
            // Nothing was sent yet.
            (
                Failure::Broker(BrokerError::TlsUnsupported),
                Outcome::InvalidInput,
            ),
            (
                Failure::Broker(BrokerError::invalid_address("")),
                Outcome::InvalidInput,
            ),
        ] {
            assert_eq!(failure.outcome(), outcome, "{failure:?}");
        }
    }

    #[test]
    fn failures_are_shown_with_causes_and_hints() {
        let failure = call(CallError::Fault(Fault::new(
            FaultCode::BadRequest,
            "missing field `id`",
        )));
        assert_eq!(
            failure.text(),
            "rpc: the worker answered with a fault: bad_request: missing field `id`\n     `rpc describe` shows its arguments"
        );
        assert_eq!(
            json_of(&failure),
            json!({
                "failure": "the worker answered with a fault: bad_request: missing field `id`",
                "exit_code": 3,
                "executed": "no",
                "fault": "bad_request",
                "hint": "`rpc describe` shows its arguments",
            })
        );
    }

    #[test]
    fn a_call_that_the_command_breaks_off_may_have_run() {
        for failure in [Failure::Interrupted, Failure::BadItems("line 1".to_owned())] {
            let json = json_of(&failure);
            assert_eq!(
                (&json["executed"], &json["exit_code"]),
                (&json!("maybe"), &json!(4))
            );
        }
        // It is not about a call.
        assert_eq!(
            json_of(&Failure::Broker(BrokerError::Closed))["executed"],
            Value::Null
        );
    }

    #[test]
    fn a_call_whose_reply_queue_is_refused_did_not_run() {
        let refused = |executed| {
            let source = BrokerError::queue("amq.gen-x", "ACCESS_REFUSED");
            json_of(&Failure::from(CallError::broker(source, executed)))
        };
        let json = refused(Executed::No);
        assert_eq!((&json["executed"], &json["exit_code"]), (&json!("no"), &json!(5)));
        assert!(json["hint"].to_string().contains("amq[.]gen-"), "{json}");
        let json = refused(Executed::Maybe);
        assert_eq!(
            (&json["executed"], &json["exit_code"]),
            (&json!("maybe"), &json!(4))
        );
    }

    #[test]
    fn each_cause_is_shown_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("{text}")]
        struct Layer {
            text: &'static str,
            source: Option<Box<Layer>>,
        }

        let refused = "Connection refused (os error 111)";
        let inner = Layer {
            text: refused,
            source: None,
        };
        let middle = Layer {
            text: refused,
            source: Some(Box::new(inner)),
        };
        let outer = Layer {
            text: "io error",
            source: Some(Box::new(middle)),
        };
        assert_eq!(
            with_causes("cannot connect".to_owned(), Some(&outer)),
            format!("cannot connect: io error: {refused}")
        );
    }

    #[test]
    fn the_methods_own_error_is_shown_as_json() {
        let failure = call(CallError::Service(MethodError::new(
            r#"{"UnknownUser":{"id":"x"}}"#.to_owned(),
        )));
        assert_eq!(
            failure.text(),
            "rpc: the method failed with its own error\n{\"UnknownUser\":{\"id\":\"x\"}}"
        );
        assert_eq!(json_of(&failure)["error"], json!({"UnknownUser": {"id": "x"}}));
        assert_eq!(json_of(&failure)["executed"], "yes");
        let large = call(CallError::Service(MethodError::new(u128::MAX.to_string())));
        assert!(large.json().contains(&format!("\"error\":{},", u128::MAX)));
    }
}
