//! Calls a method for the page, and tells it what happens in lines of JSON.
//!
//! Arguments, results and items stay JSON text, which lines contain as strings: parsing it would
//! round large numbers. Nothing of it is kept or logged.

use std::time::{Duration, Instant};

use futures_util::{Stream, stream};
use rpc_contract::ServiceDescription;
use rpc_runtime::discovery::Worker;
use rpc_runtime::{Broker, DynamicClient, Gather, GatherEnd, MethodError, StreamingCall};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;

use super::trace::{self, Trace};
use crate::call_args::CodecName;
use crate::calling::{self, PreparedCall, Settings};
use crate::failure::Failure;
use crate::input;
use crate::items;
use crate::lookup;

/// The longest time that a call may wait.
const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

/// What the page wants to call.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CallRequest {
    pub(super) service: String,
    pub(super) queue: String,
    method: String,
    /// A JSON object or array, as text.
    arguments: String,
    /// The items that the method receives: JSON, an item a line.
    #[serde(default)]
    items: String,
    timeout_ms: Option<u64>,
    #[serde(default)]
    codec: CodecName,
}

/// Prepares a call of a service. Returns its lines: nothing is sent before they are read, and the
/// call is cancelled when they are dropped.
pub(super) fn lines(
    broker: &Broker,
    service: &ServiceDescription,
    request: CallRequest,
    permit: OwnedSemaphorePermit,
) -> Result<impl Stream<Item = String> + Send + use<>, Failure> {
    let arguments = input::check_arguments("the text of the arguments", request.arguments)?;
    let Some(method) = service.method(&request.method) else {
        return Err(lookup::no_method(&[service], &request.method));
    };
    let items = match method.incoming {
        Some(_) => Some(stream::iter(items::of_text(&request.items)?)),
        None => None,
    };
    let timeout = request.timeout_ms.map(Duration::from_millis);
    if timeout.is_some_and(|timeout| timeout.is_zero() || timeout > MAX_TIMEOUT) {
        return Err(Failure::usage(
            "a time is above zero and at most 24h",
            "write it in milliseconds",
        ));
    }
    let client = DynamicClient::builder(broker, service.clone())?
        .codec(request.codec.into())
        .build();
    let trace = Trace::new();
    let settings = Settings {
        timeout,
        priority: None,
        headers: vec![(trace::HEADER.to_owned(), trace.traceparent)],
    };
    let prepared = calling::prepare(&client, method, &arguments, items, &settings);
    let running = RunningCall {
        step: Step::Begin {
            prepared,
            trace: trace.id,
        },
        is_oneway: method.is_oneway,
        begun: Instant::now(),
        _permit: permit,
    };
    Ok(stream::unfold(running, async |mut running| {
        let line = running.next_line().await?;
        Some((format!("{line}\n"), running))
    }))
}

/// A call whose lines the page reads.
struct RunningCall {
    step: Step,
    is_oneway: bool,
    /// When the first line was read. Reading the second one sends the call.
    begun: Instant,
    /// The call counts as running until this is dropped.
    _permit: OwnedSemaphorePermit,
}

/// What the next line is about.
enum Step {
    Begin { prepared: PreparedCall, trace: String },
    Call(PreparedCall),
    Items(StreamingCall<String, MethodError<String>>),
    Answers(Gather<String, MethodError<String>>),
    End,
}

impl RunningCall {
    /// Returns the next line, or `None` at the end.
    async fn next_line(&mut self) -> Option<Value> {
        // If the line is not the last one, its branch sets the next step.
        match std::mem::replace(&mut self.step, Step::End) {
            Step::Begin { prepared, trace } => {
                self.begun = Instant::now();
                self.step = Step::Call(prepared);
                Some(json!({"event": "begin", "trace": trace}))
            }
            Step::Call(PreparedCall::Single(call)) => {
                let result = call.await;
                Some(match result {
                    Ok(_) if self.is_oneway => self.last_line("sent", json!({})),
                    Ok(result) => self.last_line("result", json!({"value": result})),
                    Err(error) => self.failure_line(&error.into()),
                })
            }
            Step::Call(PreparedCall::Streaming(stream)) | Step::Items(stream) => {
                Some(self.item_line(stream).await)
            }
            Step::Call(PreparedCall::Broadcast(broadcast)) => match broadcast.send().await {
                Ok(answers) => Some(self.answer_line(answers).await),
                Err(error) => Some(self.failure_line(&error.into())),
            },
            Step::Answers(answers) => Some(self.answer_line(answers).await),
            Step::End => None,
        }
    }

    /// Waits for the next item. Returns its line, or the last line at the end.
    async fn item_line(&mut self, mut stream: StreamingCall<String, MethodError<String>>) -> Value {
        match stream.next().await {
            Some(Ok(item)) => {
                self.step = Step::Items(stream);
                json!({"event": "item", "value": item})
            }
            Some(Err(error)) => self.failure_line(&error.into()),
            None => self.last_line("end", json!({})),
        }
    }

    /// Waits for the next answer to a broadcast. Returns its line, or the last line at the end.
    async fn answer_line(&mut self, mut answers: Gather<String, MethodError<String>>) -> Value {
        if let Some((worker, answer)) = answers.next().await {
            self.step = Step::Answers(answers);
            return answer_json(&worker, answer.map_err(Failure::from));
        }
        match answers.end() {
            Some(GatherEnd::Lost(reason)) => self.failure_line(&reason.into()),
            _ => {
                let answered = answers.answered();
                let is_confirmed = answers.is_confirmed();
                self.last_line("end", json!({"answered": answered, "confirmed": is_confirmed}))
            }
        }
    }

    /// Completes the last line of the call, with its event and how long the call took.
    fn last_line(&self, event: &str, mut line: Value) -> Value {
        line["event"] = event.into();
        line["ms"] = (self.begun.elapsed().as_secs_f64() * 1000.0).into();
        line
    }

    fn failure_line(&self, failure: &Failure) -> Value {
        self.last_line("failure", failure_json(failure))
    }
}

fn answer_json(worker: &Worker, answer: Result<String, Failure>) -> Value {
    match answer {
        Ok(result) => json!({"event": "answer", "worker": worker, "value": result}),
        Err(failure) => json!({"event": "answer", "worker": worker, "failed": failure_json(&failure)}),
    }
}

/// Returns a failure for the page, without a hint. The method's own error is a string of JSON text.
pub(super) fn failure_json(failure: &Failure) -> Value {
    json!({
        "message": failure.message(),
        "error": failure.method_error(),
        "executed": failure.executed(),
        "fault": failure.fault(),
    })
}
